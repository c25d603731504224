"""A run folder: settings, results kept for reuse, metrics, and a lock against a second process.

Standard library only, so that the command line can look into a run without waiting for torch.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torchard.core.errors import RunLockedError, UsageError
from torchard.core.files import TEMPORARY, one_line, quote, read_json, told, write_atomic, write_json

MARKER, LOCK, METRICS = "torchard.json", "torchard.lock", "metrics.jsonl"
FORMAT = 1

_KEY, _FILES = "content_key", "content_files"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RunFolder:
    """One run on disk. Made by :meth:`open` or :meth:`view`; a context manager that gives the lock back.

    ``settings`` is what the marker file holds now, ``previous`` what it held before, or ``None``.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], previous: dict[str, Any] | None, lock: int | None
    ):
        self.path, self.settings, self.previous, self._lock = path, settings, previous, lock

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        resume: bool = True,
        same: Sequence[str] = (),
    ) -> "RunFolder":
        """Take the folder for this process alone, creating it where ``settings`` are given.

        Given settings replace the stored ones, except ``created``; ``None`` keeps them, and a run must be
        there. Those named in ``same`` must be as in the run that is there. A metrics line torn by a kill, and
        temporary files, are cleared away.

        Raises:
            UsageError: in one line, nothing created: the path is a file, too long, not writable, or holds
                something else, no run (``settings=None``), one (``resume=False``), or another (``same``).
            RunLockedError: naming the process that works there.
            FileRefusedError: if the marker file is damaged.
            OSError: if the disk is full.
        """
        path = path.absolute()
        check_usable(path, must_exist=settings is None)
        with _created(path), contextlib.ExitStack() as undo:
            lock = _acquire(path, undo)
            check_usable(path, must_exist=settings is None)
            previous = read_marker(path)
            now = _agreed(path, previous, settings, resume=resume, same=same)
            if now != previous:
                write_json(path / MARKER, now)
            _sweep(path)
            undo.pop_all()
        return cls(path, now, previous, lock)

    @classmethod
    def view(cls, path: Path) -> "RunFolder":
        """Look into a run, also while another process works on it or where nothing may be written.

        Raises:
            UsageError: if there is no run.
            FileRefusedError: if the marker file is damaged.
        """
        path = path.absolute()
        check_usable(path, must_exist=True)
        marker = read_marker(path)
        assert marker is not None
        return cls(path, marker, marker, None)

    def close(self) -> None:
        """Give the lock back; the folder can then only be read."""
        if self._lock in _HELD:
            _release(self._lock)
        self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the object in ``name.json``, or ``None`` if there is none.

        Raises:
            FileRefusedError: if the file is damaged.
        """
        value = self._stored(name)
        return None if value is None else _without_key(value)

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write ``name.json`` atomically.

        Raises:
            ValueError: for NaN or infinity.
            OSError: in one line; the previous file is intact.
        """
        self._check_writable()
        write_json(self._json(name), dict(value))

    def cached(
        self,
        name: str,
        key: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Any]],
        *,
        files: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the object in ``name.json`` if it was computed for this ``key``; else compute and keep it.

        What comes back went through JSON either way. ``files`` are names in the folder that ``compute``
        writes beside: the result holds as long as their bytes are the same.
        """
        digest = content_key(key)
        stored, found = self._stored(name), self._digests(files)
        if (
            stored
            and stored.get(_KEY) == digest
            and stored.get(_FILES) == found
            and None not in found.values()
        ):
            return _without_key(stored)
        self._check_writable()
        value: dict[str, Any] = json.loads(json.dumps(dict(compute()), allow_nan=False))
        found = self._digests(files)
        missing = [name for name, content in found.items() if content is None]
        if missing:
            raise FileNotFoundError(
                f"{quote(self.path / missing[0])} should have been written, but is not there."
            )
        write_json(self._json(name), value | {_KEY: digest, _FILES: found})
        return value

    def log(self, **metrics: Any) -> None:
        """Append one line to ``metrics.jsonl``; NaN and infinity become null, arrays become lists.

        Raises:
            OSError: in one line if the disk is full; no half line is left.
        """
        self._check_writable()
        entry = to_plain({"time": round(time.time(), 3), **metrics})
        _append(self.path / METRICS, json.dumps(entry, allow_nan=False).encode() + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl`` in order, those left out that are no whole objects."""
        lines = _lines(self.path / METRICS)
        return [entry for line in lines if (entry := _object(line)) is not None]

    def stage(self, name: str, phase: str = "train", *, key: str = "") -> "Stage":
        """Return one piece of work in this run, with its own checkpoint and its own lines of metrics.

        A checkpoint saved under another ``key`` (a :func:`content_key` of what it depends on) does not count.
        """
        return Stage(self, _checked(name), _checked(phase), key)

    def _json(self, name: str) -> Path:
        return self.path / f"{_checked(name)}.json"

    def _stored(self, name: str) -> dict[str, Any] | None:
        try:
            value = read_json(self._json(name))
        except FileNotFoundError:
            return None
        return value if isinstance(value, dict) else None

    def _digests(self, files: Sequence[str]) -> dict[str, str | None]:
        return {name: _digest(self.path / name) for name in files}

    def _check_writable(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"{quote(self.path)} is closed, or opened to view; RunFolder.open writes.")


@dataclass(frozen=True)
class Stage:
    """A named piece of work in a run, such as one training: where it keeps its checkpoint and its metrics."""

    folder: RunFolder
    name: str
    phase: str
    key: str = ""

    @property
    def checkpoint(self) -> Path:
        """The file that a killed training goes on from."""
        return self.folder.path / f"{self.name}-{self.phase}.checkpoint.safetensors"

    def log(self, **metrics: Any) -> None:
        """Append one line to the run's metrics, marked with this stage and phase."""
        self.folder.log(**{"stage": self.name, "phase": self.phase, **metrics})

    def rewind(self, count: int) -> None:
        """Keep the first ``count`` lines this stage logged; drop the rest, which are about to be made again.

        A checkpoint remembers how many lines there were, so that a resumed stage logs none twice. A number of
        lines, not of steps: a kill may fall between two lines of one step.
        """
        path = self.folder.path / METRICS
        lines = _lines(path)
        own = [number for number, line in enumerate(lines) if self._is_own(_object(line))]
        if len(own) > count:
            again = set(own[count:])
            kept = [line for number, line in enumerate(lines) if number not in again]
            write_atomic(path, b"".join(line + b"\n" for line in kept))

    def sync(self) -> None:
        """Put the metrics logged so far on the disk, as before a checkpoint that counts them."""
        with contextlib.suppress(FileNotFoundError), open(self.folder.path / METRICS, "rb") as file:
            os.fsync(file.fileno())

    def _is_own(self, entry: dict[str, Any] | None) -> bool:
        return entry is not None and (entry.get("stage"), entry.get("phase")) == (self.name, self.phase)


def content_key(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON: equal for equal values in any order of keys.

    Raises:
        TypeError: for what JSON cannot hold.
        ValueError: for NaN or infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def to_plain(value: Any) -> Any:
    """Return ``value`` in JSON's own types: arrays and tensors as lists, NaN and infinity as ``None``."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return to_plain(value.tolist()) if hasattr(value, "tolist") else value


def read_marker(path: Path) -> dict[str, Any] | None:
    """Return the settings in the run folder ``path``, or ``None`` if it is not one.

    Raises:
        UsageError: if a newer torchard wrote them.
        FileRefusedError: if the file is damaged.
    """
    try:
        marker = read_json(path / MARKER)
    except FileNotFoundError:
        return None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        raise UsageError(
            f"{quote(path / MARKER)} is not of format {FORMAT}; it may be from a newer torchard."
        )
    return marker


def check_usable(path: Path, *, must_exist: bool = False) -> None:
    """Refuse, before anything is written, whatever is no run folder and may not become one.

    Raises:
        UsageError: in one line: the path is a file, too long or unreadable, holds something else, or holds no
            run though one ``must_exist``.
    """
    with _told_as_usage(path):
        try:
            names = set(os.listdir(path))
        except FileNotFoundError:
            names = set()
        temporary = {name for name in names if Path(name).match(TEMPORARY)}
    if MARKER in names:
        return
    if names - temporary - {LOCK}:
        raise UsageError(f"{quote(path)} holds files, but no torchard run; choose a new or empty folder.")
    if must_exist:
        raise UsageError(f"{quote(path)} holds no torchard run; give the folder of one.")


def check_same(path: Path, settings: Mapping[str, Any], same: Sequence[str]) -> None:
    """Refuse a folder that holds another run, as :meth:`RunFolder.open` would, before work is done for it.

    Raises:
        UsageError: naming the first of the settings ``same`` that differs.
        FileRefusedError: if the marker file is damaged.
    """
    previous = read_marker(path)
    if previous is not None:
        _agreed(path, previous, settings, resume=True, same=same)


def _without_key(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name not in (_KEY, _FILES)}


def _agreed(
    path: Path,
    previous: dict[str, Any] | None,
    settings: Mapping[str, Any] | None,
    *,
    resume: bool,
    same: Sequence[str],
) -> dict[str, Any]:
    """The settings to hold from now on."""
    if previous is not None and not resume:
        raise UsageError(f"{quote(path)} already holds a run; resume it or choose another folder.")
    if settings is None:
        assert previous is not None
        return previous
    now = json.loads(json.dumps({**settings, "format": FORMAT}, allow_nan=False))
    if previous is None:
        return now
    for name in same:
        if previous.get(name) != now.get(name):
            stored, given = (_shown(values.get(name)) for values in (previous, now))
            raise UsageError(
                f"{quote(path)} holds a run with {name}={stored}, not {given}; choose another folder, or the "
                "same settings again."
            )
    return now | {name: previous[name] for name in ("created",) if name in previous}


def _shown(value: Any) -> str:
    return quote(value) if isinstance(value, str) else quote(json.dumps(value)).strip("'")


@contextlib.contextmanager
def _created(path: Path) -> Iterator[None]:
    """Make the folder and its missing parents; unmake them if what follows fails."""
    made: list[Path] = []
    try:
        with _told_as_usage(path):
            for folder in reversed([path, *path.parents]):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _told_as_usage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise told(error, path, needed=4096) from None
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"Cannot use {quote(path)} as a run folder: {reason}; choose another.") from None


_HELD: set[int | None] = set()  # descriptors of the locks of this process


def _acquire(path: Path, undo: contextlib.ExitStack) -> int:
    """Lock the folder and write our process id where the next comer reads it; ``undo`` takes both back."""
    with _told_as_usage(path):
        fresh = not (path / LOCK).exists()
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"process {owner}" if owner.isdigit() else "another process"
            raise RunLockedError(f"{quote(path)} is in use by {who}; wait or choose another.") from None
        except OSError:
            os.close(descriptor)
            if fresh:
                (path / LOCK).unlink()
            raise
        _HELD.add(descriptor)
        if fresh:
            undo.callback((path / LOCK).unlink, missing_ok=True)
        undo.callback(_release, descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _release(descriptor: int | None) -> None:
    """Forget the process id, then the lock. The file stays: without it two processes could hold one each."""
    assert descriptor is not None
    _HELD.discard(descriptor)
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _forget_locks() -> None:
    """In a forked child: let go of the parent's locks, or they would outlive a killed parent."""
    for descriptor in list(_HELD):
        _HELD.discard(descriptor)
        with contextlib.suppress(OSError):
            os.close(descriptor or -1)


os.register_at_fork(after_in_child=_forget_locks)


def _sweep(path: Path) -> None:
    """Clear away what a killed process left: temporary files, and the torn last line of the metrics."""
    for temporary in path.glob(TEMPORARY):
        temporary.unlink(missing_ok=True)
    metrics = path / METRICS
    with contextlib.suppress(FileNotFoundError):
        content = metrics.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(metrics, content.rfind(b"\n") + 1)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, line)
            if written < len(line):  # a full disk takes what fits; the next write then says why
                os.write(descriptor, line[written:])
        except OSError as error:
            os.ftruncate(descriptor, before)
            raise told(error, path, needed=len(line)) from None
    finally:
        os.close(descriptor)


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _digest(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) or f"{name}.json" == MARKER:
        raise ValueError(f"{quote(name)} cannot name a file of a run; use letters, digits, '-', '_' and '.'.")
    return name
