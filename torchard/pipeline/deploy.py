"""Write the pruned model as ONNX and as a ``torch.export`` program, each checked from image file to label.

The unpruned model becomes ONNX too, so that what pruning gained is measured where the model will run.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from torchard.core.budget import compare_latency
from torchard.core.data import InputSpec, Split
from torchard.export.check import Picture
from torchard.export.onnx import export_onnx
from torchard.export.program import export_pt2
from torchard.export.script import write_script
from torchard.export.standalone import open_model
from torchard.pipeline.job import Job
from torchard.pipeline.planning import example_images
from torchard.pipeline.prune import Pruned
from torchard.pipeline.tune import Tuned

UNPRUNED, ONNX, PROGRAM = "tuned.onnx", "model.onnx", "model.pt2"
CHECKED = 32  # validation images that the exported files must answer like the eager model


def deploy(job: Job, tuned: Tuned, pruned: Pruned) -> Mapping[str, Any]:
    """Export both models into the run folder, time them in turn, and return the facts in ``export.json``.

    Raises:
        ExportMismatchError: if an exported file answers otherwise; it is kept as ``.rejected``.
    """
    return job.stage(
        "export", pruned.facts, lambda: _deploy(job, tuned, pruned), files=[UNPRUNED, ONNX, PROGRAM]
    )


def pictures(split: Split, count: int = CHECKED) -> list[Path] | list[Image.Image]:
    """Return evenly spaced images of the split: files where it has them, else decoded pictures."""
    chosen = torch.linspace(0, len(split) - 1, min(count, len(split))).long().tolist()
    if split.paths is not None:
        return [split.paths[index] for index in chosen]
    return [split.image(index) for index in chosen]


def write_files(
    model: nn.Module,
    folder: Path,
    *,
    spec: InputSpec,
    classes: Sequence[str],
    images: Sequence[Picture],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Write ``model.onnx``, ``model.pt2`` and ``predict.py``, and return the facts of the first two.

    Raises:
        UsageError: if there is no image to check the files on.
        RuntimeError: if the model cannot be traced.
        ExportMismatchError: if an exported file answers otherwise; it is kept as ``.rejected``.
    """
    onnx = export_onnx(model, folder / ONNX, spec=spec, classes=classes, images=images)
    say(f"export: {onnx}")
    program = export_pt2(model, folder / PROGRAM, spec=spec, classes=classes, images=images)
    say(f"export: {program}")
    write_script(folder)
    return {"onnx": onnx.to_json(), "pt2": program.to_json()}


def runner(path: Path) -> Callable[[Tensor], Any]:
    """Return the ONNX file as a function of a batch, for timing."""
    session = open_model(path).session
    return lambda images: session.run(["logits"], {"images": images.contiguous().numpy()})


def _deploy(job: Job, tuned: Tuned, pruned: Pruned) -> dict[str, Any]:
    folder, spec, classes = job.run.path, pruned.spec, job.task.classes
    images = pictures(job.task.validation)
    before = export_onnx(tuned.model, folder / UNPRUNED, spec=spec, classes=classes, images=images)
    facts = write_files(pruned.model, folder, spec=spec, classes=classes, images=images, say=job.say)
    example = example_images(1, spec.size[0])
    times = compare_latency(runner(folder / UNPRUNED), runner(folder / ONNX), example)
    return {
        "tuned": before.to_json() | {"latency_ms": times.before.to_json()},
        "onnx": facts["onnx"] | {"latency_ms": times.after.to_json()},
        "pt2": facts["pt2"],
        "speedup": times.speedup,
    }
