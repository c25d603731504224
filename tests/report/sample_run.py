"""A run folder as ``torchard fit`` leaves it, with believable numbers, for the tests of report and serve.

Run as a script it writes one where asked: ``python tests/report/sample_run.py FOLDER [hostile|many]``.
"""

import base64
import io
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CELLS = ("functional", "defective")
HOSTILE = (
    "<img src=x onerror=document.documentElement.setAttribute('data-owned','1')>",
    "</script><script>document.documentElement.setAttribute('data-owned','2')</script>",
    "{{7*7}}",
    "javascript:alert(1)",
    "\"><svg onload=document.documentElement.setAttribute('data-owned','3')>",
    "line\nbreak & 'quotes' \"both\" [red]x[/red] \U0001f34e \udcff",
)
MATRIX_LIMIT = 1000
STAGES = ("data", "rank", "tune", "prune", "export", "test", "timing", "metrics")


def write_sample_run(folder: Path, *, classes: Sequence[str] = CELLS, stages: Sequence[str] = STAGES) -> Path:
    """Write the files of ``stages`` (and the marker) into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "torchard.json", settings(classes))
    parts = {
        "data": data,
        "rank": rank,
        "tune": tune,
        "prune": prune,
        "export": export,
        "test": test,
        "timing": timing,
    }
    for name, make in parts.items():
        if name in stages:
            _write(folder / f"{name}.json", make(classes))
    if "metrics" in stages:
        lines = [json.dumps(line) for line in metrics()]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"torn": ', encoding="utf-8")
    return folder


def settings(classes: Sequence[str]) -> dict[str, Any]:
    hostile = classes[0] if classes[0].startswith("<") else "elpv"
    return {
        "format": 1,
        "torchard": "0.1.0",
        "command": [
            "torchard",
            "fit",
            hostile,
            "--time",
            "10m",
            "--macs",
            "0.5x",
            "--out",
            "runs/solar cells",
        ],
        "data": hostile,
        "seed": 0,
        "targets": {"macs": "0.5x", "time": "10m"},
        "created": "2026-05-14T09:41:07+00:00",
        "machine": {"system": "Linux 6.1 x86_64", "processor": "2 cores", "memory_gib": 24, "threads": 2},
        "versions": {"python": "3.11.7", "torch": "2.14.1", "timm": "1.0.31", "onnxruntime": "1.31.1"},
    }


def data(classes: Sequence[str]) -> dict[str, Any]:
    sizes = map(sum, confusion(len(classes))) if len(classes) <= MATRIX_LIMIT else (95 for _ in classes)
    test_counts = dict(zip(classes, sizes, strict=True))
    counts = {
        split: {name: factor * size for name, size in test_counts.items()}
        for split, factor in (("train", 2), ("validation", 1))
    }
    counts["test"] = test_counts
    return {
        "name": "Solar cells" if classes == CELLS else classes[0],
        "classes": list(classes),
        "metric": "accuracy",
        "counts": counts,
        "groups": {"train": {"mono": 807, "poly": 1161}, "test": {"mono": 269, "poly": 387}},
        "excluded": [
            {"name": "cells/cell0412.png", "reason": "truncated file"},
            {"name": f"cells/{classes[-1]}.png", "reason": "not an image: HTML text"},
        ],
        "notes": ["3 images occur in two classes; they were left in. See `--strict`."],
        "fingerprint": "9c41d0be77aa5e3f10c2",
    }


def rank(classes: Sequence[str]) -> dict[str, Any]:
    rows = [
        ("tf_efficientnet_lite1", "packaged", 0.412, 0.006, 0.842, 4.18e6, 0.62e9, 8.1, [240, 240]),
        ("tf_efficientnet_lite0", "packaged", 0.409, 0.005, 0.848, 3.42e6, 0.40e9, 5.9, [224, 224]),
        ("mobilenetv2_100", "packaged", 0.388, 0.007, 0.836, 2.23e6, 0.31e9, 4.4, [224, 224]),
        ("tf_efficientnet_lite2", "packaged", 0.371, 0.006, 0.829, 4.87e6, 0.89e9, 11.3, [260, 260]),
    ]
    names = ("model", "source", "score", "error", "knn", "params", "macs", "seconds", "input")
    return {
        "scorer": "logme",
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "tied": ["tf_efficientnet_lite1", "tf_efficientnet_lite0"],
        "chosen": "tf_efficientnet_lite0",
        "reason": "Tied with tf_efficientnet_lite1 within the error of the score, and cheaper by a third.",
        "seconds": 31.5,
    }


def tune(classes: Sequence[str]) -> dict[str, Any]:
    candidates = [
        {
            "name": "linear probe",
            "validation": _scores(0.848),
            "seconds": 12.0,
            "trained_params": 2562,
            "chosen": False,
        },
        {
            "name": "SSF",
            "validation": _scores(0.871),
            "seconds": 88.0,
            "trained_params": 84_000,
            "chosen": False,
        },
        {
            "name": "full",
            "validation": _scores(0.889),
            "seconds": 204.0,
            "trained_params": 3.4e6,
            "chosen": True,
        },
    ]
    return {
        "model": "tf_efficientnet_lite0",
        "input": {
            "size": [160, 160],
            "mean": [0.498] * 3,
            "std": [0.502] * 3,
            "interpolation": "bicubic",
            "rule": "squash",
        },
        "candidates": candidates,
        "chosen": "full",
        "validation": _scores(0.889),
        "seconds": 311.0,
        "notes": [
            "160 px instead of 224 px: twice the epochs in the time given.",
            "The last 4 epochs were averaged.",
        ],
    }


def prune(classes: Sequence[str]) -> dict[str, Any]:
    steps = [("tuned", 0.40e9, 0.889), ("cut", 0.197e9, 0.806), ("recovered", 0.197e9, 0.884)]
    return {
        "target": {"macs": "0.5x"},
        "reached": True,
        "before": {"params": 3.37e6, "macs": 0.40e9, "bytes": 13.6e6, "latency_ms": 14.2},
        "after": {"params": 1.31e6, "macs": 0.197e9, "bytes": 5.4e6, "latency_ms": 8.9},
        "validation_before": _scores(0.889),
        "validation_after": _scores(0.884),
        "groups": [
            {"name": f"blocks.{k // 3}.{k % 3}.conv_pw", "before": 96 + 48 * k, "after": 56 + 22 * k}
            for k in range(17)
        ],
        "frozen": [{"name": "classifier", "reason": "its outputs are the classes"}],
        "seconds": 182.0,
        "steps": [{"name": name, "macs": macs, "accuracy": score} for name, macs, score in steps],
    }


def export(classes: Sequence[str]) -> dict[str, Any]:
    checked = {"labels_equal": True, "images": 32}
    onnx = {"file": "model.onnx", "bytes": 5.3e6, "max_abs_diff": 2.1e-5, **checked}
    tuned = {"file": "tuned.onnx", "bytes": 13.5e6, "max_abs_diff": 1.4e-5, **checked}
    return {
        "tuned": {**tuned, "latency_ms": {"median": 7.9, "p95": 8.6}},
        "onnx": {**onnx, "latency_ms": {"median": 4.6, "p95": 5.1}},
        "pt2": {"file": "model.pt2", "bytes": 5.6e6, "max_abs_diff": 0.0, **checked},
        "speedup": 1.72,
    }


def test(classes: Sequence[str]) -> dict[str, Any]:
    draw = random.Random(4)
    mistakes = [
        {
            "name": f"images/cell{draw.randrange(2624):04d}.png",
            "true": classes[k % len(classes)],
            "predicted": classes[(k + 1) % len(classes)],
            "confidence": 0.99 - 0.017 * k,
            "thumbnail": thumbnail(k),
        }
        for k in range(12)
    ]
    pruned = {
        **_scores(0.881),
        **confusions(classes),
        "per_class": {
            name: {"count": 95, "recall": 0.6 + 0.3 * (k % 7) / 6} for k, name in enumerate(classes)
        },
        "per_group": {"mono": {**_scores(0.903), "count": 269}, "poly": {**_scores(0.866), "count": 387}},
        "mistakes": mistakes,
    }
    return {"tuned": _scores(0.886), "pruned": pruned, "classes": list(classes)}


test.__test__ = False  # type: ignore[attr-defined]  # a part of the folder, not a test


def timing(classes: Sequence[str]) -> dict[str, Any]:
    stages = {"rank": 31.5, "tune": 311.0, "prune": 182.0, "export": 21.0, "report": 3.2}
    return {"budget_seconds": 600, "stages": stages, "total_seconds": 551.9}


def metrics() -> list[dict[str, Any]]:
    draw = random.Random(0)
    lines: list[dict[str, Any]] = []
    for stage, epochs, floor, top in (("tune", 12, 0.16, 0.889), ("prune", 5, 0.19, 0.884)):
        for step in range(epochs * 40):
            decay = math.exp(-4 * step / (epochs * 40))
            loss = floor + 0.55 * decay + draw.gauss(0, 0.035)
            lines.append(
                {
                    "time": float(len(lines)),
                    "stage": stage,
                    "phase": "train",
                    "epoch": step // 40,
                    "step": step,
                    "loss": loss,
                    "lr": 1e-3 * (1 - step / (epochs * 40)),
                }
            )
            if step % 40 == 39:
                accuracy = top - 0.11 * decay + draw.gauss(0, 0.004)
                lines.append(
                    {
                        "time": float(len(lines)),
                        "stage": stage,
                        "phase": "validation",
                        "epoch": step // 40,
                        "step": step,
                        "loss": loss + 0.06,
                        "accuracy": accuracy,
                        "balanced_accuracy": accuracy - 0.02,
                    }
                )
    return lines


def confusions(classes: Sequence[str]) -> dict[str, Any]:
    """The whole matrix, or where that would be too large to keep its largest cells."""
    if len(classes) <= MATRIX_LIMIT:
        return {"confusion": confusion(len(classes))}
    pairs = [(classes[k], classes[k + 1], 5, 0.05) for k in range(40)]
    return {
        "confused": [dict(zip(("true", "predicted", "count", "share"), pair, strict=True)) for pair in pairs]
    }


def confusion(classes: int) -> list[list[int]]:
    """Rows are the true class; mostly right, neighbours confused."""
    if classes == 2:
        return [[429, 18], [60, 149]]
    near = {0: 90, 1: 5}
    return [[near.get(abs(row - column), 0) for column in range(classes)] for row in range(classes)]


def thumbnail(seed: int) -> str:
    """A small grey cell with bus bars and a crack, as a JPEG data URI."""
    draw = random.Random(seed)
    image = Image.new("L", (96, 96), 120 + 8 * (seed % 6))
    pen = ImageDraw.Draw(image)
    for bar in (24, 48, 72):
        pen.line((0, bar, 96, bar), fill=70, width=2)
    points = [(8 * k, 40 + draw.randrange(-14, 30)) for k in range(13)]
    pen.line(points, fill=25, width=2)
    pen.rectangle((draw.randrange(60), draw.randrange(60), 88, 90), outline=90)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _scores(accuracy: float) -> dict[str, float]:
    return {
        "accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.021,
        "macro_f1": accuracy - 0.017,
        "auroc": min(1.0, accuracy + 0.055),
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    kinds = {"hostile": HOSTILE, "many": tuple(f"species {k:05d}" for k in range(10_000))}
    write_sample_run(Path(sys.argv[1]), classes=kinds.get(sys.argv[2], CELLS) if len(sys.argv) > 2 else CELLS)
