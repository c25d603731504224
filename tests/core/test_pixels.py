import ast
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchard.core import pixels
from torchard.core.pixels import image_to_array, open_image, resize, to_rgb


def one_pixel(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (1, 1), value)  # type: ignore[arg-type]


def reopened(image: Image.Image, format: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return Image.open(file)


def sixteen_bit(value: int) -> Image.Image:
    return Image.fromarray(np.array([[value]], dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(one_pixel("RGB", (1, 2, 3)), (1, 2, 3), id="RGB"),
        pytest.param(one_pixel("L", 77), (77, 77, 77), id="L"),
        pytest.param(one_pixel("1", 1), (255, 255, 255), id="1-bit white"),
        pytest.param(one_pixel("1", 0), (0, 0, 0), id="1-bit black"),
        pytest.param(one_pixel("RGBA", (10, 20, 30, 255)), (10, 20, 30), id="RGBA opaque"),
        pytest.param(one_pixel("RGBA", (10, 20, 30, 0)), (255, 255, 255), id="RGBA clear is white"),
        pytest.param(one_pixel("RGBA", (0, 0, 0, 51)), (204, 204, 204), id="RGBA one fifth black"),
        pytest.param(one_pixel("LA", (0, 0)), (255, 255, 255), id="LA clear is white"),
        pytest.param(one_pixel("LA", (9, 255)), (9, 9, 9), id="LA opaque"),
        pytest.param(one_pixel("CMYK", (0, 0, 0, 0)), (255, 255, 255), id="CMYK no ink"),
        pytest.param(one_pixel("CMYK", (255, 0, 0, 0)), (0, 255, 255), id="CMYK cyan"),
        pytest.param(one_pixel("CMYK", (0, 0, 0, 255)), (0, 0, 0), id="CMYK black"),
        pytest.param(sixteen_bit(0), (0, 0, 0), id="16-bit black"),
        pytest.param(sixteen_bit(128), (0, 0, 0), id="16-bit just under a half"),
        pytest.param(sixteen_bit(129), (1, 1, 1), id="16-bit just over a half"),
        pytest.param(sixteen_bit(257), (1, 1, 1), id="16-bit one"),
        pytest.param(sixteen_bit(32768), (128, 128, 128), id="16-bit middle"),
        pytest.param(sixteen_bit(65535), (255, 255, 255), id="16-bit white"),
        pytest.param(reopened(sixteen_bit(25700), "PNG"), (100, 100, 100), id="16-bit PNG"),
        pytest.param(reopened(sixteen_bit(25700), "TIFF"), (100, 100, 100), id="16-bit TIFF"),
        pytest.param(one_pixel("I", 25700), (100, 100, 100), id="32-bit within 16"),
    ],
)
def test_conversion_to_rgb_gives_the_defined_values(image, expected):
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    assert converted.getpixel((0, 0)) == expected


def test_palette_with_a_clear_colour_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putdata([0, 1])
    converted = to_rgb(reopened(image, "PNG", transparency=0))
    assert [converted.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 200)]


def test_rgb_with_a_marked_clear_colour_is_laid_on_white():
    image = Image.new("RGB", (2, 1), (7, 8, 9))
    image.putpixel((1, 0), (1, 1, 1))
    converted = to_rgb(reopened(image, "PNG", transparency=(7, 8, 9)))
    assert [converted.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (1, 1, 1)]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if format == "WEBP" else {}
    image = reopened(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
    image.seek(2)
    assert to_rgb(image).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_once(orientation):
    upright = Image.new("RGB", (4, 2), "black")
    upright.putpixel((0, 0), (255, 255, 255))
    # The inverse of what each orientation asks of a viewer.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    converted = to_rgb(reopened(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(converted), np.asarray(upright))
    assert np.array_equal(np.asarray(to_rgb(converted)), np.asarray(upright))


@pytest.mark.parametrize(
    "image",
    [Image.new("F", (1, 1), 0.5), one_pixel("I", 65536), one_pixel("I", -1)],
    ids=["float", "big", "negative"],
)
def test_pixels_without_a_defined_range_are_refused(image):
    with pytest.raises(ValueError, match="range is not defined"):
        to_rgb(image)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    header = b"P6 20000 20000 255\n"  # claims 1.2 GB in 19 bytes
    with pytest.raises((ValueError, Image.DecompressionBombError), match="pixels"):
        open_image(io.BytesIO(header))


def test_the_pixel_limit_lies_below_the_one_at_which_pillow_warns():
    assert pixels.MAX_PIXELS < Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="9000×9000 pixels are more than the 80,000,000 allowed"):
        open_image(io.BytesIO(b"P6 9000 9000 255\n"))


def test_formats_that_start_other_programs_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(OSError, match="cannot identify"):
        open_image(io.BytesIO(postscript))


@pytest.mark.parametrize("shape", [(1, 1), (5000, 1), (1, 5000), (300, 200)])
@pytest.mark.parametrize("rule", ["squash", "crop"])
def test_any_shape_reaches_the_input_size(shape, rule):
    image = Image.new("RGB", shape, (12, 34, 56))
    result = resize(image, (7, 9), interpolation="bicubic", rule=rule)
    assert result.size == (9, 7)
    assert result.getextrema() == ((12, 12), (34, 34), (56, 56))


def test_crop_takes_the_centre_and_squash_takes_all():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("lime", (10, 0, 20, 10))
    cropped = resize(image, (10, 10), interpolation="bilinear", rule="crop")
    squashed = resize(image, (10, 10), interpolation="bilinear", rule="squash")
    assert cropped.getextrema() == ((0, 0), (255, 255), (0, 0))
    assert squashed.getpixel((0, 5)) == (255, 0, 0)


def test_normalisation_is_the_formula_in_float32():
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = image_to_array(levels, size=(16, 16), mean=mean, std=std)
    assert result.dtype == np.float32
    for channel in range(3):
        exact = (np.arange(256).reshape(16, 16) / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(result[channel], exact, rtol=0, atol=1e-6)


def test_the_module_imports_nothing_but_numpy_pillow_and_the_standard_library():
    tree = ast.parse(Path(pixels.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert modules == {"io", "os", "numpy", "PIL"}


def test_its_source_alone_gives_the_same_bits_in_a_clean_process(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (33, 21), dtype=np.uint16))
    image.save(tmp_path / "picture.png")
    source = Path(pixels.__file__).read_text(encoding="utf-8")
    script = f"""{source}
import sys
arguments = dict(size=(16, 12), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), rule="crop")
sys.stdout.buffer.write(image_to_array(open_image("picture.png"), **arguments).tobytes())
assert "torch" not in sys.modules and "torchard" not in sys.modules
"""
    answer = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, check=True
    )
    here = image_to_array(
        open_image(tmp_path / "picture.png"),
        size=(16, 12),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        rule="crop",
    )
    assert answer.stdout == here.tobytes()
