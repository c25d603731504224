"""From image files someone labelled to a task: scan, leave out, check, split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torchard.core.data.carve import complete_parts
from torchard.core.data.checks import check_class_names, check_copies, check_counts, check_exclusions
from torchard.core.data.listing import PARTS, Listing, make_task
from torchard.core.data.manifest import Record
from torchard.core.data.split import ChosenImages, Images
from torchard.core.data.task import Metric, Task

PART_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"} | {
    "validation": "validation",
    "test": "test",
}
GLYPH_SIDE = 64  # images smaller than this are drawn signs more often than photographs
TINY_SIDE = 16


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images as their owner lists them, not yet looked into; ``parts`` are all train if none are given."""

    images: Images
    names: Sequence[str]
    labels: Sequence[str]
    parts: Sequence[str]
    groups: Sequence[str] | None = None
    paths: Sequence[Path] | None = None


def assemble(
    candidates: Candidates,
    records: Sequence[Record],
    *,
    name: str,
    spec: str,
    seed: int,
    strict: bool,
    metric: Metric | None,
    notes: Sequence[str] = (),
) -> Task:
    """Return the task of all usable candidates; ``records[i]`` is what the scan saw of candidate ``i``.

    The metric is balanced accuracy unless given. Left and right are taken not to matter unless the images are
    small like glyphs.

    Raises:
        DataError: if the images are too few, too damaged, or labelled ambiguously.
    """
    check_class_names(sorted(set(candidates.labels)))
    kept = [row for row, record in enumerate(records) if not record.reason]
    listing = _choose(candidates, records, kept)
    excluded = [(candidates.names[row], record.reason) for row, record in enumerate(records) if record.reason]
    told = check_exclusions(excluded, Counter(candidates.labels), Counter(listing.labels), strict=strict)
    parts = [candidates.parts[row] for row in kept]
    check_counts(parts, listing.labels)
    told += check_copies(listing.digests, listing.names, listing.labels, parts, strict=strict)
    groups = listing.groups or [""] * len(kept)
    complete = complete_parts(parts, labels=listing.labels, groups=groups, digests=listing.digests, seed=seed)
    check_counts(complete, listing.labels)
    return make_task(
        listing,
        complete,
        name=name,
        spec=spec,
        classes=ordered(listing.labels),
        metric=metric or "balanced_accuracy",
        notes=[*notes, *told, *_split_notes(parts), *_size_notes(listing.sizes)],
        excluded=excluded,
        mirror_free=median(min(size) for size in listing.sizes) >= GLYPH_SIDE,
    )


def ordered(labels: Sequence[str]) -> list[str]:
    """Return the distinct labels: as numbers if all are whole numbers, else by name."""
    distinct = sorted(set(labels))
    numeric = all(label.isascii() and label.isdigit() for label in distinct)
    return sorted(distinct, key=lambda label: (int(label), label)) if numeric else distinct


def _choose(candidates: Candidates, records: Sequence[Record], kept: list[int]) -> Listing:
    groups, paths = candidates.groups, candidates.paths
    return Listing(
        images=ChosenImages(candidates.images, kept),
        names=[candidates.names[row] for row in kept],
        labels=[candidates.labels[row] for row in kept],
        digests=[records[row].digest for row in kept],
        sizes=[(records[row].height, records[row].width) for row in kept],
        groups=None if groups is None else [groups[row] for row in kept],
        paths=None if paths is None else [paths[row] for row in kept],
    )


def _split_notes(parts: Sequence[str]) -> list[str]:
    given = set(parts)
    if given in ({"train"}, set(PARTS)):
        return []
    missing = next(part for part in PARTS if part not in given)
    return [f"No {missing} split is given: it is carved from train."]


def _size_notes(sizes: Sequence[tuple[int, int]]) -> list[str]:
    tiny = [size for size in sizes if min(size) < TINY_SIDE]
    if not tiny:
        return []
    height, width = min(tiny)
    example = f"{width}×{height}"
    return [f"Images with a side under {TINY_SIDE} pixels (such as {example}), enlarged: {len(tiny)}."]
