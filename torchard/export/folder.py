"""Everything a run folder offers for deployment: ``model.onnx``, ``model.pt2`` and ``predict.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from torchard.core.budget import file_bytes
from torchard.core.data import InputSpec
from torchard.export.check import Picture
from torchard.export.latency import latencies
from torchard.export.onnx import export_onnx
from torchard.export.program import export_pt2
from torchard.export.script import write_script


def export_into(
    folder: Path,
    model: nn.Module,
    *,
    spec: InputSpec,
    classes: Sequence[str],
    images: Sequence[Picture],
    before: nn.Module | None = None,
    rounds: int = 8,
    threads: int | None = None,
) -> dict[str, Any]:
    """Write `model` into `folder` in every form, checked on `images`, and return what ``export.json`` holds.

    With `before`, the model before pruning, its size and latency are measured in the same run. Some twenty
    seconds for a MobileNet on one core.

    Raises:
        ValueError, RuntimeError, ExportMismatchError: as :func:`export_onnx` and :func:`export_pt2`.
    """
    onnx_report = export_onnx(model, folder / "model.onnx", spec=spec, classes=classes, images=images)
    pt2_report = export_pt2(model, folder / "model.pt2", spec=spec, classes=classes, images=images)
    write_script(folder)
    modules = {"eager": model} if before is None else {"eager": model, "tuned": before}
    times = latencies({**modules, "onnx": onnx_report.path}, spec, rounds=rounds, threads=threads)
    facts: dict[str, Any] = {"onnx": onnx_report.to_json(), "pt2": pt2_report.to_json()}
    facts |= {name: {"bytes": file_bytes(module)} for name, module in modules.items()}
    for name, taken in times.items():
        facts[name]["latency_ms"] = taken.to_json()
    return facts
