"""What each part of the page shows, computed from the run's files; the template only lays it out.

Every function takes the whole record and returns a plain dictionary, or None where its stage has not run.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchard.report import charts
from torchard.report.charts import Score
from torchard.report.curves import curves, trade_off
from torchard.report.folder import RunRecord, mapping, number, objects, printable, text, texts
from torchard.report.scores import (
    confused_pairs,
    group_scores,
    metrics_of,
    mistake,
    named_pairs,
    score_rows,
    scored,
    shaded,
    square,
    weakest,
)
from torchard.report.wording import (
    DASH,
    amount,
    change,
    metric_name,
    metric_value,
    milliseconds,
    points,
)

Section = dict[str, Any] | None
MATRIX_CLASSES = 20
_ROWS = 24


def sections(record: RunRecord) -> dict[str, Section]:
    """Return every part of the page by the name the template knows it by."""
    parts: tuple[Callable[[RunRecord], Section], ...] = (
        headline, choices, ranking, tuning, pruning, exported, examined, spent, dataset, usage, origin,
    )  # fmt: skip
    return {part.__name__: part(record) for part in parts}


def headline(record: RunRecord) -> Section:
    """The name of the task, the result in one sentence, and the tiles of what it costs before and after."""
    return {
        "task": text(record.data, "name", default=text(record.settings, "data", default="A run")),
        "lead": _lead(record),
        "missed": record.prune.get("reached") is False,
        "target": _target(mapping(record.prune, "target")),
        "tiles": [tile for tile in (_quality_tile(record), *_cost_tiles(record)) if tile],
    }


def choices(record: RunRecord) -> Section:
    """What was decided on the way and for what reason, a line each."""
    lines = []
    if chosen := text(record.rank, "chosen"):
        lines.append(("Model", chosen, text(record.rank, "reason")))
    if chosen := text(record.tune, "chosen"):
        lines.append(("Tuning", chosen, _tuning_reason(record)))
    if record.tune.get("input"):
        lines.append(("Input", _input_words(mapping(record.tune, "input")), ""))
    if record.prune:
        lines.append(
            ("Pruning", _target(mapping(record.prune, "target")) or "no target", _pruning_reason(record))
        )
    notes = texts(record.tune, "notes")
    return {"lines": lines, "notes": notes} if lines or notes else None


def ranking(record: RunRecord) -> Section:
    """The models tried on frozen features, with the error of each score."""
    rows = [_rank_row(record, row) for row in objects(record.rank, "rows")]
    if not rows:
        return None
    scored = [row for row in rows if row["score"] is not None]
    scorer = text(record.rank, "scorer", default="score")
    shown = [Score(row["model"], row["score"], row["error"] or 0.0, row["chosen"]) for row in scored[:_ROWS]]
    return {
        "scorer": {"logme": "LogME", "knn": "k-NN"}.get(scorer, scorer),
        "rows": rows,
        "tied": texts(record.rank, "tied"),
        "chart": charts.dot_chart(shown, title=f"Models by {scorer}", x_name="score, higher is better"),
    }


def tuning(record: RunRecord) -> Section:
    """The candidates compared on validation, and how the training went."""
    candidates = objects(record.tune, "candidates")
    drawn = curves(record, metric=_metric(record))
    if not candidates and not drawn:
        return None
    rows = [
        {
            "name": text(row, "name"),
            "scores": mapping(row, "validation"),
            "seconds": number(row, "seconds"),
            "trained": number(row, "trained_params"),
            "chosen": row.get("chosen") is True,
        }
        for row in candidates
    ]
    metrics = metrics_of(mapping(row, "validation") for row in candidates)
    return {"rows": rows, "metrics": metrics, "metric": _metric(record), "curves": drawn, "value": scored}


def pruning(record: RunRecord) -> Section:
    """What pruning cost and saved, where the channels went, and what it had to leave alone."""
    if not record.prune:
        return None
    before, after = mapping(record.prune, "before"), mapping(record.prune, "after")
    groups = [_group_row(row) for row in objects(record.prune, "groups")]
    cut = sorted((row for row in groups if row["share"] < 1), key=lambda row: row["share"])
    return {
        "rows": _before_after(before, after),
        "scores": score_rows(
            mapping(record.prune, "validation_before"), mapping(record.prune, "validation_after")
        ),
        "chart": trade_off(record, metric=_metric(record)),
        "metric": _metric(record),
        "groups": cut[:_ROWS],
        "more_groups": max(0, len(cut) - _ROWS),
        "untouched": len(groups) - len(cut),
        "frozen": [
            (text(row, "name"), text(row, "reason")) for row in objects(record.prune, "frozen")[:_ROWS]
        ],
    }


def exported(record: RunRecord) -> Section:
    """The files written, how they were checked against the eager model, and how fast each answers."""
    if not record.export:
        return None
    before = "ONNX Runtime" if text(record.export, "tuned", "file").endswith(".onnx") else "PyTorch"
    names = {
        "tuned": f"before pruning, {before}",
        "eager": "final, PyTorch",
        "onnx": "final, ONNX Runtime",
        "pt2": "final, torch.export",
    }
    rows = [
        {
            "name": shown,
            "file": text(record.export, key, "file"),
            "bytes": number(record.export, key, "bytes"),
            "median": number(record.export, key, "latency_ms", "median"),
            "p95": number(record.export, key, "latency_ms", "p95"),
            "difference": number(record.export, key, "max_abs_diff"),
        }
        for key, shown in names.items()
        if mapping(record.export, key)
    ]
    return {
        "rows": rows,
        "images": number(record.export, "onnx", "images"),
        "threads": number(record.settings, "machine", "threads"),
        "speedup": number(record.export, "speedup"),
    }


def examined(record: RunRecord) -> Section:
    """The one look at the test split: scores, confusions, groups, and the most confident mistakes."""
    if not record.test:
        return None
    tuned, pruned = mapping(record.test, "tuned"), mapping(record.test, "pruned")
    classes = texts(record.test, "classes") or texts(record.data, "classes")
    matrix = square(pruned.get("confusion"), len(classes))
    return {
        "scores": score_rows(tuned, pruned),
        "images": _test_images(record),
        "classes": classes,
        "matrix": shaded(matrix) if matrix and len(classes) <= MATRIX_CLASSES else None,
        "pairs": confused_pairs(matrix, classes) or named_pairs(objects(pruned, "confused")),
        "weakest": weakest(mapping(pruned, "per_class")) if len(classes) > MATRIX_CLASSES else [],
        "groups": group_scores(mapping(pruned, "per_group")),
        "mistakes": [mistake(row) for row in objects(pruned, "mistakes")[:24]],
    }


def spent(record: RunRecord) -> Section:
    """Where the time went, against what was given."""
    stages = [(name, number(seconds) or 0.0) for name, seconds in mapping(record.timing, "stages").items()]
    if not stages:
        return None
    total = number(record.timing, "total_seconds") or sum(seconds for _, seconds in stages)
    budget = number(record.timing, "budget_seconds")
    longest = max(total, budget or 0.0, 1e-9)
    other = max(0.0, total - sum(seconds for _, seconds in stages))
    if other > 0.005 * longest:
        stages.append(("other", other))
    bars = [
        {"name": printable(name), "seconds": seconds, "width": 100 * seconds / longest, "step": index % 6}
        for index, (name, seconds) in enumerate(stages)
    ]
    over = budget is not None and total > budget
    return {
        "bars": bars,
        "total": total,
        "budget": budget,
        "mark": 100 * (budget or 0) / longest,
        "over": over,
    }


def dataset(record: RunRecord) -> Section:
    """What there was to learn from, what was left out, and what to know about it."""
    if not record.data:
        return None
    counts = {split: _printable_keys(sizes) for split, sizes in mapping(record.data, "counts").items()}
    rows, more = _class_counts(counts, texts(record.data, "classes"))
    excluded = objects(record.data, "excluded")
    return {
        "splits": [printable(split) for split in counts],
        "totals": [_total(split) for split in counts.values()],
        "rows": rows,
        "more": more,
        "classes": len(texts(record.data, "classes")),
        "excluded": [(text(row, "name"), text(row, "reason")) for row in excluded[:50]],
        "more_excluded": max(0, len(excluded) - 50),
        "notes": texts(record.data, "notes"),
        "fingerprint": text(record.data, "fingerprint"),
    }


def usage(record: RunRecord) -> Section:
    """The programs that load what was built."""
    if not mapping(record.export, "onnx"):
        return None
    size = mapping(record.tune, "input").get("size")
    known = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return {"size": size if known else None, "pt2": bool(mapping(record.export, "pt2"))}


def origin(record: RunRecord) -> Section:
    """What it takes to do it again: the command, the versions, the machine."""
    command = " ".join(shlex.quote(part) for part in texts(record.settings, "command"))
    return {
        "command": command,
        "created": text(record.settings, "created"),
        "seed": text(record.settings, "seed"),
        "torchard": text(record.settings, "torchard"),
        "versions": _pairs(mapping(record.settings, "versions")),
        "machine": _pairs(mapping(record.settings, "machine")),
    }


def _lead(record: RunRecord) -> str:
    model, metric = text(record.tune, "model", default=text(record.rank, "chosen")), _metric(record)
    score = number(record.test, "pruned", metric)
    if score is None:
        return f"The best of the models tried is {model}." if model else "This run has not got far yet."
    images = _test_images(record)
    where = (
        f"on {images:,} test images it had not seen"
        if images
        else "on the test images, which it had not seen"
    )
    after = number(record.prune, "after", "macs"), number(record.prune, "before", "macs")
    share = f", pruned to {after[0] / after[1]:.2f}× its operations" if after[0] and after[1] else ""
    return f"{model}{share}: {metric_name(metric).lower()} {metric_value(metric, score)} {where}."


def _quality_tile(record: RunRecord) -> Section:
    metric = _metric(record)
    before, after = number(record.test, "tuned", metric), number(record.test, "pruned", metric)
    where = "test"
    if after is None:
        where = "validation"
        before, after = (
            number(record.prune, "validation_before", metric),
            number(record.prune, "validation_after", metric),
        )
    if after is None:
        after = number(record.tune, "validation", metric)
    if after is None:
        return None
    name = f"{metric_name(metric)}, {where}"
    step = points(before, after) if metric.endswith("accuracy") else None
    spread = _standard_error(record, metric, after) if where == "test" else None
    shown = _from(before, lambda value: metric_value(metric, value))
    return _tile(name, metric_value(metric, after), shown, step, spread=spread)


def _cost_tiles(record: RunRecord) -> list[Section]:
    """Like is compared with like: file with file and runtime with runtime, as far as the run went."""
    before, after = mapping(record.prune, "before"), mapping(record.prune, "after")
    old, new = mapping(record.export, "tuned"), mapping(record.export, "onnx")
    if text(old, "file"):
        file = _cost_tile("ONNX file", number(old, "bytes"), number(new, "bytes"), _bytes)
        slow, fast = number(old, "latency_ms", "median"), number(new, "latency_ms", "median")
    else:
        file = _cost_tile("Weights", number(before, "bytes"), number(after, "bytes"), _bytes)
        slow, fast = number(before, "latency_ms"), number(after, "latency_ms")
    return [
        _cost_tile("MACs per image", number(before, "macs"), number(after, "macs"), amount),
        _cost_tile("Parameters", number(before, "params"), number(after, "params"), amount),
        file,
        _cost_tile("Latency, one image", slow, fast, milliseconds),
    ]


def _bytes(value: float | None) -> str:
    return amount(value, "B")


def _cost_tile(
    name: str, before: float | None, after: float | None, show: Callable[[float | None], str]
) -> Section:
    if after is None:
        return None
    share = after / before if before else None
    return _tile(
        name, show(after), _from(before, show), change(before, after), bar=share and 100 * min(1.0, share)
    )


def _tile(name: str, value: str, before: str, step: str | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "before": before, "step": step, "bar": None, "spread": None, **more}


def _from(before: float | None, show: Callable[[float | None], str]) -> str:
    return f"before: {show(before)}" if before is not None else ""


def _standard_error(record: RunRecord, metric: str, share: float) -> str | None:
    """Binomial, so for plain accuracy only."""
    images = _test_images(record)
    if metric != "accuracy" or not images or not 0 <= share <= 1:
        return None
    return f"± {100 * math.sqrt(share * (1 - share) / images):.1f}"


def _metric(record: RunRecord) -> str:
    return text(record.data, "metric", default="accuracy")


def _test_images(record: RunRecord) -> int:
    return int(_total(mapping(record.data, "counts", "test")))


def _total(split: Mapping[str, Any]) -> float:
    return sum((number(value) or 0.0 for value in split.values()), 0.0)


def _target(target: Mapping[str, Any]) -> str:
    names = {"macs": "MACs", "params": "parameters"}
    return ", ".join(
        f"{text(target, name)} {names.get(name, printable(name))}" for name in target if text(target, name)
    )


def _input_words(spec: Mapping[str, Any]) -> str:
    size = spec.get("size")
    if not (isinstance(size, list) and len(size) == 2):
        return DASH
    rule = {"squash": "the whole image, squashed", "crop": "the largest centred box"}.get(
        text(spec, "rule"), ""
    )
    height, width = number(size[0]) or 0, number(size[1]) or 0
    return f"{width:.0f} × {height:.0f} pixels, {text(spec, 'interpolation')}; {rule}"


def _tuning_reason(record: RunRecord) -> str:
    """How good the chosen way was; "best" only where no other way tried had a better metric."""
    metric, candidates = _metric(record), objects(record.tune, "candidates")
    score = number(record.tune, "validation", metric)
    if score is None:
        return ""
    tried = [number(row, "validation", metric) or 0.0 for row in candidates]
    word = "best" if score >= max(tried, default=score) else "chosen"
    among = (
        f"{word} of {len(tried)} on the validation images" if len(tried) > 1 else "on the validation images"
    )
    return f"{among}: {metric_name(metric).lower()} {metric_value(metric, score)}"


def _pruning_reason(record: RunRecord) -> str:
    kept = change(number(record.prune, "before", "macs"), number(record.prune, "after", "macs"))
    missed = record.prune.get("reached") is False
    reached = "not reached; the nearest result was kept" if missed else "reached"
    return f"{reached}: {kept} MACs" if kept != DASH else reached


def _rank_row(record: RunRecord, row: Mapping[str, Any]) -> dict[str, Any]:
    size = row.get("input")
    return {
        "model": text(row, "model"),
        "source": text(row, "source"),
        **{name: number(row, name) for name in ("score", "error", "knn", "params", "macs", "seconds")},
        "input": f"{size[1]}×{size[0]}" if isinstance(size, list) and len(size) == 2 else DASH,
        "chosen": text(row, "model") == text(record.rank, "chosen"),
    }


def _group_row(row: Mapping[str, Any]) -> dict[str, Any]:
    before, after = number(row, "before") or 0.0, number(row, "after") or 0.0
    share = min(1.0, max(0.0, after / before)) if before > 0 else 1.0
    return {"name": text(row, "name"), "before": before, "after": after, "share": share, "width": 100 * share}


def _before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    shown: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        ("MACs per image", "macs", amount),
        ("Parameters", "params", amount),
        ("Weights", "bytes", _bytes),
        ("Latency, PyTorch", "latency_ms", milliseconds),
    )
    rows = [(name, number(before, key), number(after, key), show) for name, key, show in shown]
    return [
        (name, show(old), show(new), change(old, new))
        for name, old, new, show in rows
        if (old, new) != (None, None)
    ]


def _class_counts(counts: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> tuple[list[Any], int]:
    """The largest classes with their images a split, and how many classes are not shown."""
    names = list(dict.fromkeys([*classes, *(name for split in counts.values() for name in split)]))
    sizes = {name: [number(split, name) or 0.0 for split in counts.values()] for name in names}
    largest = names if len(names) <= _ROWS else sorted(names, key=lambda name: -sum(sizes[name]))[:_ROWS]
    return [(name, sizes[name]) for name in largest], len(names) - len(largest)


def _printable_keys(value: Any) -> dict[str, Any]:
    return {printable(name): size for name, size in mapping(value).items()}


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(printable(name), text(values, name)) for name in values if text(values, name)]
