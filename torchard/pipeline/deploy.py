"""Write the pruned model as ONNX and as a ``torch.export`` program, each checked from image file to label."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from torchard.core.budget import compare_latency
from torchard.core.data import Split
from torchard.export.onnx import export_onnx
from torchard.export.program import export_pt2
from torchard.export.script import write_script
from torchard.export.standalone import open_model
from torchard.pipeline.job import Job
from torchard.pipeline.prune import Pruned, example_input
from torchard.pipeline.tune import Tuned

ONNX, PROGRAM = "model.onnx", "model.pt2"
CHECKED = 32  # validation images that the exported files must answer like the eager model


def deploy(job: Job, tuned: Tuned, pruned: Pruned) -> Mapping[str, Any]:
    """Export the pruned model into the run folder, and time it there; return the facts in ``export.json``.

    Raises:
        ExportMismatchError: if an exported file answers otherwise; it is kept as ``.rejected``.
    """
    return job.stage("export", pruned.facts, lambda: _deploy(job, tuned, pruned), files=[ONNX, PROGRAM])


def pictures(split: Split, count: int = CHECKED) -> list[Path] | list[Image.Image]:
    """Return evenly spaced images of the split: files where it has them, else decoded pictures."""
    chosen = torch.linspace(0, len(split) - 1, min(count, len(split))).long().tolist()
    if split.paths is not None:
        return [split.paths[index] for index in chosen]
    return [split.image(index) for index in chosen]


def _deploy(job: Job, tuned: Tuned, pruned: Pruned) -> dict[str, Any]:
    folder, spec = job.run.path, pruned.spec
    arguments: dict[str, Any] = {
        "spec": spec,
        "classes": job.task.classes,
        "images": pictures(job.task.validation),
    }
    onnx = export_onnx(pruned.model, folder / ONNX, **arguments)
    job.say(f"export: {onnx}")
    program = export_pt2(pruned.model, folder / PROGRAM, **arguments)
    job.say(f"export: {program}")
    write_script(folder)
    runtime = open_model(folder / ONNX)
    example = example_input(spec)
    batch = example.contiguous().numpy()
    times = compare_latency(
        pruned.model, lambda _: runtime.session.run(["logits"], {"images": batch}), example
    )
    return {
        "onnx": onnx.to_json() | {"latency_ms": times.after.to_json()},
        "pt2": program.to_json(),
        "eager": {"bytes": pruned.facts["after"]["bytes"], "latency_ms": times.before.to_json()},
        "tuned": {
            "bytes": pruned.facts["before"]["bytes"],
            "latency_ms": {"median": pruned.facts["before"]["latency_ms"]},
        },
    }
