"""What a data set is to every method: splits, classes, a metric, and what its user should know."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

from torchard.core.data.split import Split
from torchard.core.errors import UsageError

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc"]
SMALL_FACTOR = 2
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task, made by :func:`load_task`.

    Choose on ``validation``. ``test`` is for one look at the very end: whoever chooses by it has nothing left
    that tells how the model does on new images.

    ``fingerprint`` changes with any image, label or split, so caches may stand on it. ``orientation_free``
    says that turned and mirrored images keep their label, ``mirror_free`` that left and right do not matter.
    """

    name: str
    spec: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    metric: Metric
    fingerprint: str
    notes: tuple[str, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    orientation_free: bool = False
    mirror_free: bool = True

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The median (height, width) of the training images before resizing, where known."""
        sizes = self.train.sizes
        if not sizes:
            return None
        return round(median(height for height, _ in sizes)), round(median(width for _, width in sizes))

    def summary(self) -> dict[str, Any]:
        """Return what a reader of the run should know, as plain JSON values."""
        return {
            "name": self.name,
            "spec": self.spec,
            "classes": list(self.classes),
            "metric": self.metric,
            "counts": {part: _class_counts(split, self.classes) for part, split in self.splits.items()},
            "groups": None
            if self.train.groups is None
            else {part: dict(sorted(Counter(split.groups).items())) for part, split in self.splits.items()},
            "image_size": None if self.image_size is None else list(self.image_size),
            "orientation_free": self.orientation_free,
            "mirror_free": self.mirror_free,
            "excluded": [{"name": name, "reason": reason} for name, reason in self.excluded],
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def checked_metric(name: str) -> Metric:
    """Return ``name`` if it is a metric's.

    Raises:
        UsageError: if it is not.
    """
    for metric in METRICS:
        if metric == name:
            return metric
    raise UsageError(f"`metric={name!r}` is unknown; choose {', '.join(METRICS)}")


def resolution_note(task: Task, size: tuple[int, int]) -> str | None:
    """Return a warning if the images are much smaller than a model's input (height, width), else None."""
    if task.image_size is None or max(task.image_size) * SMALL_FACTOR > min(size):
        return None
    own, wanted = (f"{width}×{height}" for height, width in (task.image_size, size))
    return f"The images ({own}) are much smaller than the model's input ({wanted}): enlarging adds no detail."


def fingerprint(classes: tuple[str, ...], rows: list[list[Any]]) -> str:
    """Return a SHA-256 over class names and rows (split, name, image digest, target, …), in any order."""
    canonical = json.dumps([list(classes), sorted(rows, key=json.dumps)], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _class_counts(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    counts = split.targets.bincount(minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=True))
