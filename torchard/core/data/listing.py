"""All usable images of a data set in one list, and the task made of it once each row has its split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from torchard.core.data.split import Images, Split
from torchard.core.data.task import Metric, Task, fingerprint

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Listing:
    """Images row by row: ``labels`` are class names, ``digests`` the SHA-256 of each image's content."""

    images: Images
    names: Sequence[str]
    labels: Sequence[str]
    digests: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    groups: Sequence[str] | None = None
    paths: Sequence[Path] | None = None
    soft_targets: Float[Tensor, "n c"] | None = None


def make_task(
    listing: Listing,
    parts: Sequence[str],
    *,
    name: str,
    spec: str,
    classes: Sequence[str],
    metric: Metric,
    notes: Sequence[str] = (),
    excluded: Sequence[tuple[str, str]] = (),
    orientation_free: bool = False,
    mirror_free: bool = True,
) -> Task:
    """Return the task whose row ``i`` of ``listing`` stands in ``parts[i]``: train, validation or test."""
    number = {label: index for index, label in enumerate(classes)}
    targets = [number[label] for label in listing.labels]
    whole = Split(
        images=listing.images,
        targets=torch.tensor(targets, dtype=torch.int64),
        names=tuple(listing.names),
        soft_targets=listing.soft_targets,
        groups=None if listing.groups is None else tuple(listing.groups),
        paths=None if listing.paths is None else tuple(listing.paths),
        sizes=tuple(listing.sizes),
    )
    train, validation, test = (
        whole.subset([row for row, part in enumerate(parts) if part == wanted]) for wanted in PARTS
    )
    return Task(
        name=name,
        spec=spec,
        classes=tuple(classes),
        train=train,
        validation=validation,
        test=test,
        metric=metric,
        fingerprint=fingerprint(tuple(classes), _rows(listing, parts, targets)),
        notes=tuple(notes),
        excluded=tuple(excluded),
        orientation_free=orientation_free,
        mirror_free=mirror_free,
    )


def _rows(listing: Listing, parts: Sequence[str], targets: Sequence[int]) -> list[list[object]]:
    count = len(targets)
    groups = listing.groups or [""] * count
    soft = [[]] * count if listing.soft_targets is None else listing.soft_targets.tolist()
    return [
        list(row) for row in zip(parts, listing.names, listing.digests, targets, groups, soft, strict=True)
    ]
