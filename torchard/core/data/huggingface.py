"""A labelled image data set from the Hugging Face hub."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from torchard.core.data.assemble import PART_NAMES, Candidates, assemble
from torchard.core.data.manifest import MAX_BYTES, scan
from torchard.core.data.task import Metric, Task
from torchard.core.errors import DataError, FileRefusedError, MissingExtraError, UsageError
from torchard.core.files import one_line, quote, read_bytes
from torchard.core.pixels import open_image

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:\w[\w.-]*)?")


@runtime_checkable
class HubSplit(Protocol):
    """The part of ``datasets.Dataset`` that is used."""

    @property
    def features(self) -> Mapping[str, Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def cast_column(self, column: str, feature: Any, /) -> "HubSplit": ...


def load_huggingface(
    name: str,
    *,
    root: Path | None = None,
    seed: int = 0,
    strict: bool = False,
    metric: Metric | None = None,
) -> Task:
    """Return the task of the hub's data set ``owner/name``, or ``owner/name:configuration``.

    Downloaded into ``root`` (default: the cache of ``datasets``); code inside a data set is never run.

    Raises:
        UsageError: if ``name`` is no such name.
        MissingExtraError: if the package ``datasets`` is not installed.
        DataError: if it cannot be had, or has no column of images and one of labels.
    """
    repository, _, configuration = name.partition(":")
    if not _NAME.fullmatch(name):
        raise UsageError(f"`hf:{name}` names no data set; write hf:owner/name or hf:owner/name:configuration")
    try:
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        raise MissingExtraError(f"hf:{name} needs the package datasets: pip install 'torchard[hf]'") from None
    try:
        splits = datasets.load_dataset(
            repository, configuration or None, cache_dir=None if root is None else str(root)
        )
    except Exception as error:  # the library raises its own, the hub's, pyarrow's and the network's
        raise DataError(f"hf:{name} cannot be loaded: {one_line(error)}") from None
    caches = [HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, *([root] if root else [])]
    return hub_task(
        splits, spec=f"hf:{name}", caches=[Path(p) for p in caches], seed=seed, strict=strict, metric=metric
    )


def hub_task(
    splits: Mapping[str, HubSplit],
    *,
    spec: str,
    caches: Sequence[Path] = (),
    seed: int = 0,
    strict: bool = False,
    metric: Metric | None = None,
) -> Task:
    """Return the task of loaded splits, named as on the hub.

    Image files that rows point to must lie under ``caches``.
    A split whose rows all lack labels (-1 or none), as hidden test sets do, is left out; so are single such
    rows.

    Raises:
        DataError: if there is no train split, or not one column of images and one of labels; or as for
            folders.
    """
    used, notes = _used_splits(splits, spec)
    rows = [row for part, split in used for row in _labelled_rows(part, split, spec)]
    images = HubImages([read for _, _, _, read in rows], caches)
    candidates = Candidates(
        images=images,
        names=[name for name, _, _, _ in rows],
        labels=[label for _, label, _, _ in rows],
        parts=[part for _, _, part, _ in rows],
    )
    unlabelled = sum(len(split) for _, split in used) - len(rows)
    return assemble(
        candidates,
        scan([partial(images.encoded, index) for index in range(len(images))]),
        name=spec.removeprefix("hf:"),
        spec=spec,
        seed=seed,
        strict=strict,
        metric=metric,
        notes=[*notes, *([f"Rows without a label, left out: {unlabelled}."] if unlabelled else [])],
    )


class HubImages:
    """Images as rows keep them: encoded bytes, or the path of a file in one of ``caches``."""

    def __init__(self, readers: Sequence[Callable[[], Mapping[str, Any]]], caches: Sequence[Path]) -> None:
        self.readers, self.caches = tuple(readers), tuple(path.resolve() for path in caches)

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int, /) -> Image.Image:
        return open_image(io.BytesIO(self.encoded(index)))

    def encoded(self, index: int) -> bytes:
        """Return the file's bytes.

        Raises:
            FileRefusedError: if it lies outside of the caches, or is too large.
        """
        cell = self.readers[index]()
        data, path = cell.get("bytes"), cell.get("path")
        if data is None and path:
            real = Path(path).resolve()
            if not any(cache in real.parents for cache in self.caches):
                raise FileRefusedError(f"{quote(path)} lies outside of the data set's cache")
            return read_bytes(real, max_bytes=MAX_BYTES)
        return data or b""


def _used_splits(splits: Mapping[str, HubSplit], spec: str) -> tuple[list[tuple[str, HubSplit]], list[str]]:
    known = [
        (PART_NAMES[name.casefold()], split)
        for name, split in splits.items()
        if name.casefold() in PART_NAMES
    ]
    others = [name for name in splits if name.casefold() not in PART_NAMES]
    notes = [f"Splits not used: {', '.join(map(quote, others))}."] if others else []
    if "train" not in dict(known):
        raise DataError(f"{spec} has no split named train, but {', '.join(map(quote, splits))}")
    if len(dict(known)) < len(known):
        raise DataError(f"{spec} has two splits that mean the same: {', '.join(map(quote, splits))}")
    return known, notes


def _labelled_rows(
    part: str, split: HubSplit, spec: str
) -> Iterable[tuple[str, str, str, Callable[[], Mapping[str, Any]]]]:
    """(name, label, part, reader of the image cell) of each row that has a label."""
    picture, label = _column(split, "Image", "image", spec), _column(split, "ClassLabel", "label", spec)
    names = getattr(split.features[label], "names", None)
    # Undecoded, so that our own bounded decoder sees the bytes.
    encoded = split.cast_column(picture, type(split.features[picture])(decode=False))
    for row, value in enumerate(list(split[label])):
        if value is None or value == -1:
            continue
        if names is not None and not 0 <= value < len(names):
            raise DataError(f"{spec}, {part} row {row}: label {value} is none of the {len(names)} classes")
        text = str(value) if names is None else names[value]
        yield f"{part}/{row:07d}", text, part, partial(_cell, encoded, row, picture)


def _cell(split: HubSplit, row: int, column: str) -> Mapping[str, Any]:
    return split[row][column] or {}


def _column(split: HubSplit, kind: str, preferred: str, spec: str) -> str:
    """The one column of this kind of feature; of several the one with the preferred name."""
    found = [name for name, feature in split.features.items() if type(feature).__name__ == kind]
    if preferred in found or (not found and kind == "ClassLabel" and preferred in split.features):
        return preferred
    if len(found) != 1:
        columns = ", ".join(f"{quote(name)} ({type(kind).__name__})" for name, kind in split.features.items())
        raise DataError(f"{spec} has {len(found)} columns of type {kind}, one is needed; columns: {columns}")
    return found[0]
