"""Find the image files under a folder without ever leaving it."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from torchard.core.errors import UsageError
from torchard.core.files import quote

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".mpo",
    ]
)
# Hidden names start with a dot; these come from macOS archives, Windows and network drives.
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})
HIDDEN, LINKS, OTHER = "hidden or system", "links", "no image suffix"


@dataclass(slots=True)
class Walk:
    """Image files as (names of folders and file, real path), folders, and what was passed over."""

    files: list[tuple[tuple[str, ...], Path]] = field(default_factory=list)
    folders: list[tuple[str, ...]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def walk(root: Path) -> Walk:
    """Return what lies under ``root``, sorted by name.

    Hidden and system entries are passed over and counted, and so are links that lead out of ``root`` and
    links to folders: what they show inside ``root`` is found without them, so loops cannot arise.

    Raises:
        UsageError: if ``root`` or a folder in it is missing, no folder, or unreadable.
    """
    found, base = Walk(), _real_folder(root)
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        place = waiting.pop()
        for entry in _entries(base.joinpath(*place)):
            _take(entry, (*place, entry.name), base, found, waiting)
    found.files.sort()
    found.folders.sort()
    return found


def notes(found: Walk) -> list[str]:
    """Return one sentence for each kind of thing that was passed over."""
    sentences = {
        HIDDEN: "Hidden or system files and folders, ignored: {}.",
        LINKS: "Links that lead out of the folder, to another folder or nowhere, not followed: {}.",
        OTHER: "Files without an image suffix, ignored: {}.",
    }
    return [text.format(found.skipped[kind]) for kind, text in sentences.items() if found.skipped[kind]]


def printable(name: str) -> str:
    """Return a file name as text; bytes that are no UTF-8 are written out as ``\\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _real_folder(root: Path) -> Path:
    try:
        base = root.resolve(strict=True)
    except FileNotFoundError:
        raise UsageError(f"{quote(root)} does not exist; give a folder with one folder per class") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{quote(root)} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not base.is_dir():
        raise UsageError(
            f"{quote(root)} is no folder; give a folder with one folder per class, or a .csv file"
        )
    return base


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"{quote(folder)} cannot be read: {error.strerror}") from None


def _take(
    entry: os.DirEntry[str], place: tuple[str, ...], base: Path, found: Walk, waiting: list[tuple[str, ...]]
) -> None:
    if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_NAMES:
        found.skipped[HIDDEN] += 1
    elif entry.is_symlink():
        real = _link_target(entry, base)
        if real is None:
            found.skipped[LINKS] += 1
        else:
            _take_file(place, real, found)
    elif entry.is_dir(follow_symlinks=False):
        found.folders.append(place)
        waiting.append(place)
    else:
        _take_file(place, Path(entry.path), found)


def _take_file(place: tuple[str, ...], path: Path, found: Walk) -> None:
    if os.path.splitext(place[-1])[1].lower() not in IMAGE_SUFFIXES or not path.is_file():
        found.skipped[OTHER] += 1
    else:
        found.files.append((place, path))


def _link_target(entry: os.DirEntry[str], base: Path) -> Path | None:
    """The file a link shows, if that lies under ``base``."""
    try:
        real = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return real if base in real.parents and real.is_file() else None
