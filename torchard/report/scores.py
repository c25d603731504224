"""Tables of what a model gets right and wrong: scores before and after, confusions, groups, mistakes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchard.report.folder import mapping, number, printable, text
from torchard.report.wording import DASH, metric_name, metric_value, percent, points

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
_ROWS = 24
_PAIRS = 12
_THUMBNAIL_BYTES = 200_000
_THUMBNAIL = re.compile(r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")


def score_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """A row for each metric that either has: its name, before, after, and the difference."""
    pairs = [(metric, number(before, metric), number(after, metric)) for metric in METRICS]
    return [
        (metric_name(metric), metric_value(metric, old), metric_value(metric, new), _step(metric, old, new))
        for metric, old, new in pairs
        if (old, new) != (None, None)
    ]


def metrics_of(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that any of the scores has, in the usual order."""
    found = {name for row in scores for name in row}
    return [name for name in METRICS if name in found]


def scored(scores: Mapping[str, Any], metric: str) -> str:
    """One metric as it is shown, a dash if it is not there."""
    return metric_value(metric, number(scores, metric))


def square(value: Any, classes: int) -> list[list[float]]:
    """`value` if it is a square table of counts, one row a class; else nothing."""
    if not isinstance(value, list) or not classes or len(value) != classes:
        return []
    if not all(isinstance(row, list) and len(row) == classes for row in value):
        return []
    return [[number(cell) or 0.0 for cell in row] for row in value]


def shaded(matrix: Sequence[Sequence[float]]) -> list[list[dict[str, float]]]:
    """Each count with its share of the row, which colours the cell."""
    return [[{"count": cell, "share": cell / max(sum(row), 1.0)} for cell in row] for row in matrix]


def confused_pairs(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The largest cells off the diagonal."""
    cells = [
        (cell, row, column)
        for row, counts in enumerate(matrix)
        for column, cell in enumerate(counts)
        if cell > 0 and row != column
    ]
    top = sorted(cells, key=lambda cell: (-cell[0], cell[1], cell[2]))[:_PAIRS]
    return [
        {"true": classes[row], "predicted": classes[column], "count": cell, "share": cell / sum(matrix[row])}
        for cell, row, column in top
    ]


def named_pairs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands in for the matrix where that would be too large to keep: its largest cells, by name."""
    return [
        {
            "true": text(row, "true"),
            "predicted": text(row, "predicted"),
            "count": number(row, "count"),
            "share": number(row, "share"),
        }
        for row in rows[:_PAIRS]
    ]


def weakest(per_class: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The classes of whose images the smallest share was found."""
    recalls = [
        (recall, name) for name in per_class if (recall := number(per_class, name, "recall")) is not None
    ]
    return [
        {"name": printable(name), "images": number(per_class, name, "count"), "recall": recall}
        for recall, name in sorted(recalls)[:_PAIRS]
    ]


def group_scores(groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each group of images."""
    rows = [(printable(name), mapping(groups, name)) for name in groups]
    return [
        {
            "name": name,
            "images": number(scores, "count"),
            "values": [
                (metric_name(key), metric_value(key, number(scores, key))) for key in METRICS if key in scores
            ],
        }
        for name, scores in rows[:_ROWS]
    ]


def mistake(row: Mapping[str, Any]) -> dict[str, Any]:
    """One wrong answer; its picture only if it is a small raster image given as data."""
    picture = row.get("thumbnail")
    safe = isinstance(picture, str) and len(picture) <= _THUMBNAIL_BYTES and _THUMBNAIL.fullmatch(picture)
    return {
        "name": text(row, "name"),
        "true": text(row, "true"),
        "predicted": text(row, "predicted"),
        "confidence": percent(number(row, "confidence"), 0),
        "thumbnail": picture if safe else None,
    }


def _step(metric: str, old: float | None, new: float | None) -> str:
    if metric.endswith("accuracy"):
        return points(old, new)
    if old is None or new is None:
        return DASH
    step = round(new - old, 3)
    return f"{'+' if step > 0 else '−' if step < 0 else '±'}{abs(step):.3f}"
