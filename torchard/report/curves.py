"""The charts of a run: learning curves by stage, and accuracy against MACs while pruning."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from markupsafe import Markup

from torchard.report import charts
from torchard.report.charts import Label, Series
from torchard.report.folder import RunRecord, number, objects, text
from torchard.report.wording import amount, metric_name

_STAGE_ORDER = {"tune": 0, "prune": 1}


def curves(record: RunRecord, *, metric: str) -> list[dict[str, Any]]:
    """A pair of charts a stage: training loss, and the validation metric."""
    found = []
    for stage, lines in groupby(sorted(record.metrics, key=_stage), key=_stage):
        held = list(lines)
        loss = _loss_chart(stage, held)
        score = _score_chart(stage, held, metric)
        if loss or score:
            found.append({"stage": stage, "loss": loss, "score": score})
    return sorted(found, key=lambda curve: _STAGE_ORDER.get(curve["stage"], 9))


def trade_off(record: RunRecord, *, metric: str) -> Markup:
    """The points passed while pruning, in their order; nothing if there are fewer than two."""
    rows = objects(record.prune, "steps")
    found = [(number(row, "macs"), number(row, "accuracy"), text(row, "name")) for row in rows]
    steps = [(macs, score, name) for macs, score, name in found if macs is not None and score is not None]
    if len(steps) < 2:
        return Markup("")
    names = ["before", *[""] * (len(steps) - 2), "after"]
    labels = [
        Label(name or otherwise, (macs, score), chosen=number_ == len(steps) - 1)
        for number_, ((macs, score, name), otherwise) in enumerate(zip(steps, names, strict=True))
        if name or otherwise
    ]
    return charts.line_chart(
        [Series(metric, [(macs, score) for macs, score, _ in steps], "accent", dots=True)],
        title=f"{metric_name(metric)} against MACs while pruning",
        x_name="MACs per image",
        x_format=amount,
        y_format=_whole_percent if metric.endswith("accuracy") else None,
        labels=_apart(labels),
    )


def _apart(labels: Sequence[Label]) -> list[Label]:
    """One label for neighbours that would cover each other, at the place of the later one."""
    wide, high = (
        max(label.at[axis] for label in labels) - min(label.at[axis] for label in labels) for axis in (0, 1)
    )
    kept = [labels[0]]
    for label in labels[1:]:
        last = kept[-1]
        if abs(label.at[0] - last.at[0]) <= 0.2 * wide and abs(label.at[1] - last.at[1]) <= 0.1 * high:
            kept[-1] = Label(f"{last.text}, {label.text}", label.at, chosen=last.chosen or label.chosen)
        else:
            kept.append(label)
    return kept


def _stage(line: Mapping[str, Any]) -> str:
    return text(line, "stage", default="training")


def _loss_chart(stage: str, lines: Sequence[Mapping[str, Any]]) -> Markup:
    series: list[Series] = []
    for phase, points_ in _by_phase(lines, "loss")[:3]:
        style: Literal["quiet", "accent"] = "quiet" if "val" in phase else "accent"
        noisy = style == "accent" and len(points_) > 60
        if noisy:
            series.append(Series(phase, points_, "faint"))
        series.append(Series(phase, charts.smooth(points_) if noisy else points_, style))
    return charts.line_chart(series, title=f"Loss, {stage}", x_name="step")


def _score_chart(stage: str, lines: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    series = [Series(phase, points_, "accent", dots=True) for phase, points_ in _by_phase(lines, metric)[:2]]
    show = _whole_percent if metric.endswith("accuracy") else None
    return charts.line_chart(series, title=f"{metric_name(metric)}, {stage}", x_name="step", y_format=show)


def _whole_percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _by_phase(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, list[charts.Point]]]:
    found: dict[str, list[charts.Point]] = {}
    for line in lines:
        x, y = number(line, "step"), number(line, key)
        if x is not None and y is not None:
            found.setdefault(text(line, "phase", default="training"), []).append((x, y))
    return [(phase, sorted(points_)) for phase, points_ in found.items()]
