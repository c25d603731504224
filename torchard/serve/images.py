"""Images from the network: judged by their content alone, and refused before they cost anything."""

from io import BytesIO

from PIL import Image, UnidentifiedImageError
from starlette.exceptions import HTTPException

from torchard.core.pixels import FORMATS, to_rgb


class Refused(HTTPException):
    """A request that will not be answered: an HTTP status and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)


def decode(body: bytes, *, max_pixels: int) -> Image.Image:
    """Return the image in `body` as RGB, fully decoded; name and declared type play no part.

    The size is read from the header first, so that a small file that claims many pixels costs none of them.

    Raises:
        Refused: 400 if it is empty, 413 if too many pixels, 415 if it is no image, 422 if it is broken.
    """
    if not body:
        raise Refused(400, "the body is empty; send an image")
    try:
        image = Image.open(BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(415, f"this is no image of a kind that is read here: {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(413, f"the image has more than {max_pixels:,} pixels") from None
    except Exception as error:  # a decoder raises whatever breaks in it
        raise _broken(error) from None
    with image:
        if image.width * image.height > max_pixels:
            raise Refused(
                413, f"{image.width}×{image.height} pixels are more than the {max_pixels:,} allowed"
            )
        try:
            return to_rgb(image)
        except Exception as error:
            raise _broken(error) from None


def _broken(error: Exception) -> Refused:
    return Refused(422, f"the image cannot be decoded: {type(error).__name__}: {str(error)[:200]}")
