import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from torchard.core.data import manifest
from torchard.core.data.manifest import Record, scan, scan_files


def encoded(format: str, *, side: int = 64, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def seen(data: bytes) -> Record:
    (record,) = scan([lambda: data])
    return record


FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_good_image_has_size_and_digest(format):
    data = encoded(format)
    assert seen(data) == Record(hashlib.sha256(data).hexdigest(), 64, 65)


@pytest.mark.parametrize("format", FORMATS)
def test_half_an_image_is_refused(format):
    data = encoded(format)
    assert seen(data[: len(data) // 2]).reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "PPM"])
def test_truncation_is_named(format):
    data = encoded(format)
    assert seen(data[: len(data) * 2 // 3]).reason == "truncated"


def test_truncation_is_found_even_where_the_program_around_asked_pillow_to_fill_in(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded("JPEG")
    assert seen(data[: len(data) // 2]).reason == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><title>404</title>", "a web page, not an image"),
        (b"\xef\xbb\xbf\n <html>", "a web page, not an image"),
        (b"just text", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"P6 20000 20000 255\n", "too many pixels"),
        (b"P6 9000 9000 255\n", "too many pixels"),
        (b"Pf 1 1 -1.0\n\0\0\0\0", "pixels without a defined range"),
    ],
)
def test_reasons(data, reason):
    assert seen(data).reason == reason


@settings(max_examples=150, deadline=None)
@given(format=st.sampled_from(FORMATS), data=st.data())
def test_damage_never_raises_and_never_gives_half_a_record(format, data):
    content = bytearray(encoded(format, side=8))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    record = seen(bytes(content))
    assert bool(record.reason) != bool(record.digest)


def test_sizes_are_those_after_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    record = seen(encoded("JPEG", exif=exif))
    assert (record.height, record.width) == (65, 64)


def files(tmp_path: Path) -> list[Path]:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encoded("PNG"))
    bad.write_bytes(b"text")
    return [good, bad, tmp_path / "missing.png"]


def test_files_are_recorded_in_order(tmp_path):
    records = scan_files(files(tmp_path))
    assert [record.reason for record in records] == ["", "not an image of a known format", "missing file"]


def test_too_large_a_file_is_not_read(tmp_path, monkeypatch):
    paths = files(tmp_path)
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    assert scan_files(paths[:1])[0].reason == "too many bytes"


def test_with_a_cache_only_changed_files_are_opened_again(tmp_path, monkeypatch):
    paths = files(tmp_path)
    first = scan_files(paths, cache=tmp_path)
    opened = []
    real = manifest.open_image
    monkeypatch.setattr(manifest, "open_image", lambda file: opened.append(1) or real(file))
    assert scan_files(paths, cache=tmp_path) == first
    assert opened == []
    paths[1].write_bytes(encoded("PNG"))
    changed = scan_files(paths, cache=tmp_path)
    assert len(opened) == 1
    assert [record.reason for record in changed] == ["", "", "missing file"]
    os.utime(paths[0], ns=(1, 1))
    scan_files(paths, cache=tmp_path)
    assert len(opened) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "entries": 3}',
        '{"format": 2, "entries": {}}',
        '{"format": 1, "entries": {"GOOD": [1, 2]}}',
        '{"format": 1, "entries": {"GOOD": [1, 2, "x", "y", 4, ""]}}',
        '{"format": 1, "entries": {"GOOD": {"0": 1}}}',
    ],
)
def test_a_damaged_cache_counts_as_none(tmp_path, content):
    paths = files(tmp_path)
    expected = scan_files(paths)
    (tmp_path / "manifest.json").write_text(content.replace("GOOD", str(paths[0])))
    assert scan_files(paths, cache=tmp_path) == expected


def test_a_file_elsewhere_of_the_same_name_size_and_time_is_another(tmp_path):
    cache, one, other = tmp_path / "cache", tmp_path / "one", tmp_path / "other"
    for folder, shade in ((cache, 0), (one, 1), (other, 2)):
        folder.mkdir()
        Image.new("L", (9, 9), shade).save(folder / "x.bmp")
        os.utime(folder / "x.bmp", ns=(5, 5))
    first, second = (scan_files([folder / "x.bmp"], cache=cache)[0] for folder in (one, other))
    assert first.digest != second.digest
