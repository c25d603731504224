"""Look at every image once: decode it fully; keep its size and digest, or why it cannot be used."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from PIL import ImageFile, UnidentifiedImageError

from torchard.core.data.arrays import workers
from torchard.core.errors import FileRefusedError
from torchard.core.files import one_line, read_bytes, read_json, write_json
from torchard.core.pixels import open_image

MAX_BYTES = 256 << 20
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What the scan saw of one image; ``reason`` says why it cannot be used, and is empty if it can."""

    digest: str = ""
    height: int = 0
    width: int = 0
    reason: str = ""


def scan_files(paths: Sequence[Path], *, cache: Path | None = None) -> list[Record]:
    """Return a record per file, in order. Each is read once; as many threads as cores decode.

    With a ``cache`` folder, records are kept there as JSON, and a file whose size and time of change are the
    same is not opened again.
    """
    store = None if cache is None else cache / "manifest.json"
    known = {} if store is None else _read_store(store)
    keys = [os.path.abspath(path) for path in paths]
    stamps = [_stamp(path) for path in paths]
    found = [known.get(key) for key in keys]
    stale = [row for row, stamp in enumerate(stamps) if not _is_current(found[row], stamp)]
    fresh = dict(zip(stale, scan([_reader(paths[row]) for row in stale]), strict=True))
    records = [fresh.get(row) or Record(*found[row][2:]) for row in range(len(paths))]  # type: ignore[index]
    if store is not None and fresh:
        rows = zip(keys, stamps, records, strict=True)
        entries = {key: [*stamp, *astuple(record)] for key, stamp, record in rows}
        write_json(store, {"format": _FORMAT, "entries": entries})
    return records


def scan(readers: Sequence[Callable[[], bytes]]) -> list[Record]:
    """Return a record per reader of an encoded image, in order."""
    with _exacting_pillow(), ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(_examine, readers))


def _examine(read: Callable[[], bytes]) -> Record:
    try:
        data = read()
    except FileNotFoundError:
        return Record(reason="missing file")
    except FileRefusedError as error:
        return Record(reason="too many bytes" if "larger than" in str(error) else "cannot be read")
    if not data:
        return Record(reason="empty file")
    try:
        width, height = open_image(io.BytesIO(data)).size
    except Exception as error:  # Pillow's decoders raise almost every type there is on damaged files
        return Record(reason=_reason(error, data))
    return Record(hashlib.sha256(data).hexdigest(), height, width)


def _reason(error: Exception, data: bytes) -> str:
    text = one_line(error)
    if isinstance(error, UnidentifiedImageError):
        html = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
        return "a web page, not an image" if html else "not an image of a known format"
    if "allowed" in text or "bomb" in text:
        return "too many pixels"
    if "range is not defined" in text:
        return "pixels without a defined range"
    return "truncated" if "truncated" in text.lower() else f"damaged ({text or type(error).__name__})"


@contextmanager
def _exacting_pillow() -> Iterator[None]:
    """No warnings, and no grey filling for what is missing, even if the program around us asked for that."""
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _reader(path: Path) -> Callable[[], bytes]:
    return lambda: read_bytes(path, max_bytes=MAX_BYTES)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _is_current(entry: list[Any] | None, stamp: tuple[int, int]) -> bool:
    return entry is not None and stamp != (-1, -1) and tuple(entry[:2]) == stamp


def _read_store(store: Path) -> dict[str, list[Any]]:
    """The kept records; a damaged or foreign file counts as none, since all can be looked at again."""
    try:
        content = read_json(store)
        entries = content["entries"] if content["format"] == _FORMAT else {}
        return {key: entry for key, entry in entries.items() if _is_entry(entry)}
    except (FileNotFoundError, FileRefusedError, KeyError, TypeError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    kinds = (int, int, str, int, int, str)
    return isinstance(entry, list) and [type(value) for value in entry] == list(kinds)
