"""A folder with one folder per class, or with train, val and test folders of such."""

from collections.abc import Sequence
from pathlib import Path

from torchard.core.data.assemble import PART_NAMES, Candidates, assemble
from torchard.core.data.manifest import scan_files
from torchard.core.data.split import FileImages
from torchard.core.data.task import Metric, Task
from torchard.core.data.walk import Walk, notes, printable, walk
from torchard.core.errors import DataError
from torchard.core.files import quote


def load_folder(
    root: Path,
    *,
    seed: int = 0,
    strict: bool = False,
    metric: Metric | None = None,
    cache: Path | None = None,
) -> Task:
    """Return the task whose classes are the folders in ``root``, or in its train, val and test folders.

    Images may lie deeper inside a class's folder. A missing test split is a quarter of train, a missing
    validation split 15 % of it. Images that cannot be fully decoded are left out and named in ``excluded``.

    Raises:
        UsageError: if ``root`` is missing, no folder, or unreadable.
        DataError: if there is nothing to learn from it.
    """
    found = walk(root)
    split = _has_splits(found, root)
    depth = 2 if split else 1
    _check_layout(found, root, depth)
    placed = [(place, path) for place, path in found.files if len(place) > depth]
    names = ["/".join(printable(part) for part in place) for place, _ in placed]
    paths = [path for _, path in placed]
    candidates = Candidates(
        images=FileImages(paths),
        names=names,
        labels=[printable(place[depth - 1]) for place, _ in placed],
        parts=[PART_NAMES[place[0].casefold()] if split else "train" for place, _ in placed],
        paths=paths,
    )
    return assemble(
        candidates,
        scan_files(paths, cache=cache),
        name=printable(root.resolve().name),
        spec=printable(str(root)),
        seed=seed,
        strict=strict,
        metric=metric,
        notes=[*notes(found), *_layout_notes(found, depth)],
    )


def _has_splits(found: Walk, root: Path) -> bool:
    """Whether the folders in ``root`` are splits: a train folder of folders, and beside it splits only."""
    top = [place[0] for place in found.folders if len(place) == 1]
    splits = [name for name in top if name.casefold() in PART_NAMES]
    train = [name for name in top if PART_NAMES.get(name.casefold()) == "train"]
    inside = {place[0] for place in found.folders if len(place) == 2}
    if not train or not inside.intersection(train):
        return False
    meant = [PART_NAMES[name.casefold()] for name in splits]
    if len(set(meant)) < len(meant):
        raise DataError(f"{quote(root)} holds {_listed(splits)}, of which two mean the same split; keep one")
    if len(top) > len(splits) > 1:
        others = [name for name in top if name not in splits]
        raise DataError(
            f"{quote(root)} holds the splits {_listed(splits)} beside {_listed(others)}; move those out"
        )
    return len(top) == len(splits)


def _check_layout(found: Walk, root: Path, depth: int) -> None:
    if not found.files:
        raise DataError(
            f"{quote(root)} holds no images in {len(found.folders)} folders; "
            "put at least three images of each class into a folder of the class's name"
        )
    if all(len(place) <= depth for place, _ in found.files):
        raise DataError(
            f"{quote(root)} holds {len(found.files)} images outside of class folders and none inside; "
            "put the images of each class into a folder of the class's name"
        )


def _layout_notes(found: Walk, depth: int) -> list[str]:
    stray = sum(len(place) <= depth for place, _ in found.files)
    filled = {place[:depth] for place, _ in found.files}
    empty = [place for place in found.folders if len(place) == depth and place not in filled]
    return [
        *([f"Images outside of class folders, ignored: {stray}."] if stray else []),
        *(
            [f"Folders without images are no classes: {_listed(['/'.join(p) for p in empty])}."]
            if empty
            else []
        ),
    ]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(quote(printable(name)) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
