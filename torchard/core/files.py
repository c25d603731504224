"""Write files whole or not at all, and read strangers' files within bounds.

Standard library only: the command line and the report import this without waiting for torch.
"""

import contextlib
import errno
import json
import math
import os
import reprlib
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NoReturn

from torchard.core.errors import FileRefusedError

TEMPORARY = (
    ".torchard-*.tmp"  # what a killed writer leaves behind; a run folder sweeps these away when opened
)

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}
_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"GIF87a", 0, "gif"),
    (b"GIF89a", 0, "gif"),
    (b"WEBP", 8, "webp"),
    (b"BM", 0, "bmp"),
    (b"II*\x00", 0, "tiff"),
    (b"MM\x00*", 0, "tiff"),
    (b"PK\x03\x04", 0, "zip"),
    (b"PK\x05\x06", 0, "zip"),
    (b"\x1f\x8b", 0, "gzip"),
    (b"\x80\x02", 0, "pickle"),
    (b"\x80\x03", 0, "pickle"),
    (b"\x80\x04", 0, "pickle"),
    (b"\x80\x05", 0, "pickle"),
    (b"\x00\x00\x00\x00{", 4, "safetensors"),
)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that a reader, or a kill at any moment, sees the old file or the new one.

    Text is written as UTF-8. One copy on disk besides the old file while writing.

    Raises:
        OSError: in one line, with the bytes needed when the disk is full; the previous file is intact.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path, needed=len(payload)) as temporary:
        temporary.write_bytes(payload)


@contextlib.contextmanager
def replacing(path: Path, *, needed: int) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on leaving it is synced and takes ``path``'s place.

    For libraries that write files themselves. After an error the temporary file is gone and ``path`` is as
    before. ``needed`` is the size in bytes to be told when the disk is full.

    Raises:
        OSError: as :func:`write_atomic`.
    """
    temporary = path.parent / f".torchard-{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise told(error, path, needed=needed) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON, ASCII only, so that names in any encoding survive.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
        TypeError: for what JSON cannot hold.
    """
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *, max_bytes: int = 64 << 20, max_depth: int = 64) -> Any:
    """Return what the JSON file ``path`` holds, read with suspicion.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: if it is too large or deep, or not strict JSON: NaN, infinity, duplicate keys.
    """
    return parse_json(read_bytes(path, max_bytes=max_bytes), source=quote(path), max_depth=max_depth)


def parse_json(data: bytes | str, *, source: str, max_depth: int = 64) -> Any:
    """Return the value of strict JSON text; ``source`` names it in errors.

    Raises:
        FileRefusedError: for NaN, infinity, duplicate keys, deep nesting, or anything else that is not JSON.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        _check_depth(value, max_depth)
    except RecursionError:
        raise FileRefusedError(f"{source} is refused: JSON nested deeper than {max_depth} levels.") from None
    except ValueError as error:
        raise FileRefusedError(f"{source} is refused: not strict JSON ({one_line(error)}).") from None
    return value


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of the regular file ``path``, never more than ``max_bytes`` in memory.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: if it is larger, no regular file, or cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FileRefusedError(f"{quote(path)} is refused: larger than {max_bytes:,} bytes.")
    return data


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open the regular file ``path`` for reading; pipes and devices, which may never end, are refused.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: if it is no regular file or cannot be read.
    """
    try:
        # Non-blocking, or opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileRefusedError(f"{quote(path)} is refused: not a regular file.")
            yield file
    except (FileNotFoundError, FileRefusedError):
        raise
    except (OSError, ValueError) as error:
        raise FileRefusedError(f"{quote(path)} cannot be read: {_reason(error)}.") from None


def confine(root: Path, name: str) -> Path:
    """Return the resolved path of ``name`` inside ``root``, links followed; the file need not exist.

    Raises:
        FileRefusedError: if ``name`` is empty or absolute (on any system), or leads out of ``root``.
    """
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\")
    if not name or absolute:
        raise FileRefusedError(f"{quote(name)} is refused: give a path relative to {quote(root)}.")
    try:
        base = root.resolve()
        path = (base / name.replace("\\", "/") if os.sep == "\\" else base / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise FileRefusedError(f"{quote(name)} is refused: {_reason(error)}.") from None
    backslash_climb = ".." in PureWindowsPath(name).parts and ".." not in PurePosixPath(name).parts
    if backslash_climb or path == base or base not in path.parents:
        raise FileRefusedError(f"{quote(name)} is refused: it leads out of {quote(root)}.")
    return path


def magic(path: Path) -> str | None:
    """Return what the first bytes of ``path`` say it is, whatever its name, or ``None`` if they say nothing.

    Known: jpeg, png, gif, webp, bmp, tiff, zip, gzip, pickle, safetensors, html.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: if it is no regular file or cannot be read.
    """
    with open_regular(path) as file:
        head = file.read(512)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return next((kind for mark, at, kind in _MAGIC if head[at : at + len(mark)] == mark), None)


def told(error: OSError, path: Path, *, needed: int | None = None) -> OSError:
    """Return ``error`` again as one line that names the file, and the bytes needed when the disk is full.

    Same type and ``errno``, so whoever wants to catch it apart still can.
    """
    if error.errno in _FULL and needed is not None:
        text = f"No space to write {quote(path)}: {needed:,} bytes needed, {_free(path)}; old file kept."
    else:
        text = f"Cannot write {quote(path)}: {_reason(error)}."
    answer = type(error)(text)
    answer.errno = error.errno
    return answer


def quote(name: object, *, limit: int = 160) -> str:
    """Return a stranger's name for a one-line message: quoted, control characters escaped, the middle cut."""
    short = reprlib.Repr()
    short.maxstring = limit
    return short.repr(str(name))


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free:,} bytes free there"
    except OSError:
        return "free space there unknown"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    """Make the rename itself durable; some file systems cannot, and then the rename is all there is."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_DIRECTORY_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"duplicate key {quote(twice)}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{quote(text)} is beyond a float")
    return value


def _check_depth(value: Any, limit: int) -> None:
    level = [value]
    for _ in range(limit + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return
        level = [inner for item in level for inner in _children(item)]
    raise ValueError(f"nested deeper than {limit} levels")


def _children(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item
