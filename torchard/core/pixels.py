"""From an image file to the numbers a model reads, with Pillow and NumPy alone.

Nothing of torchard is imported here, so that an exported model can carry this file's source along and give
the same answers, bit for bit, on a machine that has neither torch nor torchard.
"""

from io import BytesIO
from os import PathLike

import numpy as np
from PIL import Image, ImageOps

# These formats register themselves on import; leaving that to the first file races between threads.
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

# Only formats that Pillow decodes by itself: its EPS reader, for one, starts Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
MAX_PIXELS = 80_000_000  # a small file can claim far more; Pillow itself warns from 89 million
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def image_to_array(
    image: Image.Image,
    *,
    size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    interpolation: str = "bilinear",
    rule: str = "squash",
) -> np.ndarray:
    """Return ``image`` as the model reads it: float32, channels first, ``(3, height, width)``."""
    return normalise(resize(to_rgb(image), size, interpolation=interpolation, rule=rule), mean=mean, std=std)


def open_image(file: str | PathLike[str] | BytesIO) -> Image.Image:
    """Return the first picture in the file as RGB, fully decoded, turned as its EXIF tag says.

    Raises:
        ValueError: if it has more than ``MAX_PIXELS`` pixels, or a pixel type without a defined range.
        OSError: if it cannot be read, is truncated, or is no image of one of ``FORMATS``.
    """
    with Image.open(file, formats=FORMATS) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit RGB. An RGB image comes back unchanged.

    The first frame counts. EXIF rotation is applied. 16-bit grey is divided by 257, so that white stays
    white. Transparency (RGBA, LA, palette or marked colour) is laid on white. CMYK and the rest follow
    Pillow's formulas, without colour profiles.

    Raises:
        ValueError: for too many pixels, and for 32-bit integers beyond 16 bits and floats, whose white is
            not defined.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels are more than the {MAX_PIXELS:,} allowed")
    if image.tell():
        image.seek(0)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("pixels are floats, whose range is not defined; save as 8-bit or 16-bit")
    if image.mode.startswith("I"):
        return _sixteen_bit_to_grey(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], *, interpolation: str, rule: str) -> Image.Image:
    """Return an image of ``size`` (height, width): all of it, or its largest centred box.

    Cropping before scaling keeps a 1×5000 image from growing to a million pixels on the way.
    """
    height, width = size
    box = (0.0, 0.0, float(image.width), float(image.height))
    if rule == "crop":
        box = _centred_box(image.width, image.height, width / height)
    return image.resize((width, height), RESAMPLING[interpolation], box=box)


def normalise(
    image: Image.Image, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> np.ndarray:
    """Return ``(pixels / 255 − mean) / std`` in float32, channels first."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    centred = values - np.asarray(mean, dtype=np.float32)
    return np.ascontiguousarray((centred / np.asarray(std, dtype=np.float32)).transpose(2, 0, 1))


def _sixteen_bit_to_grey(values: np.ndarray) -> Image.Image:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("pixels are wider than 16 bits, whose range is not defined; save as 8-bit or 16-bit")
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))


def _centred_box(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    # Only the sides that are cut take part in arithmetic, so that rounding cannot push the box over an edge.
    left = max(0.0, (width - height * aspect) / 2)
    top = max(0.0, (height - width / aspect) / 2)
    return left, top, width - left, height - top
