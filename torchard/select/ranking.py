"""What a ranking says: models in order, with costs, errors and ties."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import spearmanr, weightedtau

from torchard.core.budget import human


@dataclass(frozen=True)
class Row:
    """One model's line in a ranking.

    ``error`` is the standard error of ``score``, ``gap`` what it lacks to the best, ``features`` their
    number. ``beside`` holds the other scorers' figures; a scorer that does not apply gives None.
    """

    model: str
    source: str
    score: float | None
    error: float | None
    gap: float | None
    beside: Mapping[str, float | None]
    params: int
    macs: int
    seconds: float
    features: int
    input: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values, other scorers' figures under their names."""
        own = {field: getattr(self, field) for field in self.__dataclass_fields__ if field != "beside"}
        return {**own, "input": list(self.input), **self.beside}


@dataclass(frozen=True)
class Ranking:
    """Models from best to worst score, which are tied with the best, which to take and why, which failed."""

    scorer: str
    rows: tuple[Row, ...]
    tied: tuple[str, ...]
    chosen: str
    reason: str
    samples: int
    seconds: float
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        others = list(self.rows[0].beside)
        head = ["model", self.scorer, "gap", *others, "params", "MACs", "seconds"]
        table = [head, *([_text(cell) for cell in _cells(row, others)] for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(head))]
        lines = [
            "   ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table
        ]
        failures = [f"Not ranked: {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*lines, *failures, self.reason])

    def sorted(self, by: str) -> list[Row]:
        """Return the rows by any scorer, best first, or by ``params``, ``macs``, ``seconds``, least first.

        Raises:
            ValueError: if the ranking has no such column.
        """
        costs = ("params", "macs", "seconds")
        if by not in (self.scorer, *self.rows[0].beside, *costs):
            raise ValueError(
                f"`by={by!r}` is no column; there are {', '.join(self._scores())}, {', '.join(costs)}."
            )
        if by in costs:
            return sorted(self.rows, key=lambda row: getattr(row, by))
        values = dict(zip((row.model for row in self.rows), self._scores()[by], strict=True))
        return sorted(self.rows, key=lambda row: low_if_none(values[row.model]), reverse=True)

    def agreement(self, truth: Mapping[str, float]) -> dict[str, float]:
        """Return each scorer's weighted Kendall τ with ``truth``, say accuracies after fine-tuning, by model.

        Raises:
            ValueError: if ``truth`` names fewer than three of the models.
        """
        known = [i for i, row in enumerate(self.rows) if row.model in truth]
        if len(known) < 3:
            raise ValueError(f"`truth` names {len(known)} of the ranked models; at least 3 are needed.")
        real = [truth[self.rows[i].model] for i in known]
        return {
            name: float(weightedtau([low_if_none(values[i]) for i in known], real).statistic)
            for name, values in self._scores().items()
        }

    def correlations(self) -> dict[tuple[str, str], float]:
        """Return Spearman's rank correlation between every two scorers."""
        scores = {name: [low_if_none(value) for value in values] for name, values in self._scores().items()}
        pairs = [(a, b) for i, a in enumerate(scores) for b in list(scores)[i + 1 :]]
        return {(a, b): _spearman(scores[a], scores[b]) for a, b in pairs}

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as plain values."""
        own = {field: getattr(self, field) for field in self.__dataclass_fields__}
        return {**own, "rows": [row.to_json() for row in self.rows], "tied": list(self.tied)}

    def _scores(self) -> dict[str, list[float | None]]:
        others = {name: [row.beside[name] for row in self.rows] for name in self.rows[0].beside}
        return {self.scorer: [row.score for row in self.rows], **others}


def low_if_none(value: float | None) -> float:
    """Return the value to sort by where a score that does not apply comes last."""
    return float("-inf") if value is None else value


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation; NaN where a scorer gives all models the same."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(spearmanr(first, second).statistic)


def _cells(row: Row, others: Sequence[str]) -> list[Any]:
    score = None if row.score is None else f"{row.score:.3f} ± {row.error:.3f}"
    beside = [row.beside[name] for name in others]
    return [row.model, score, row.gap, *beside, human(row.params), human(row.macs), f"{row.seconds:.1f}"]


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
