"""Export the model that a folder holds: of a run the pruned one if it got there, else the tuned one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchard import hub
from torchard.core.budget import compare_latency, file_bytes
from torchard.core.data import InputSpec, load_task
from torchard.core.errors import UsageError
from torchard.core.files import quote
from torchard.core.run import RunFolder
from torchard.export.check import Picture
from torchard.hub.folder import is_model_folder, read
from torchard.pipeline.deploy import ONNX, pictures, runner, write_files
from torchard.prune.depgraph import load_pruned

PRUNED = "pruned.safetensors"


@dataclass(frozen=True)
class Built:
    """A model with all that its exported file must say: what it reads, and the names of its classes."""

    model: nn.Module
    spec: InputSpec
    classes: tuple[str, ...]
    stage: str


def built(folder: Path) -> Built:
    """Return the model in a run folder, or in a folder that :func:`torchard.hub.folder.save` wrote.

    Raises:
        UsageError: if there is none.
        FileRefusedError: if a file is damaged or does not fit.
    """
    if not is_model_folder(folder):
        raise UsageError(
            f"{quote(folder)} holds no model; give the folder of a run that `torchard fit` or `tune` made."
        )
    saved = read(folder)
    classes = saved.classes or tuple(str(number) for number in range(saved.num_classes))
    if (folder / PRUNED).is_file():
        architecture = hub.load(str(folder), pretrained=False)
        return Built(load_pruned(folder / PRUNED, model=architecture), saved.input, classes, "pruned")
    return Built(hub.load(str(folder)), saved.input, classes, "tuned")


def export_run(
    folder: Path,
    *,
    out: Path | None = None,
    images: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write ``model.onnx``, ``model.pt2`` and ``predict.py`` to `out` (default: `folder`); return the facts.

    The files are checked on `images`, by default on validation images of the run's own data. Into the run
    itself the facts are written too, as ``export.json``. Of a pruned run the costs ``before`` and ``after``
    are among what comes back.

    Raises:
        UsageError: if there is no model, or no image to check it on.
        RuntimeError: if the model cannot be traced.
        ExportMismatchError: if an exported file answers otherwise; it is kept as ``.rejected``.
    """
    found = built(folder)
    checked: Sequence[Picture] = [*images] or _own_pictures(folder)
    target = out or folder
    target.mkdir(parents=True, exist_ok=True)
    facts = _write(found, target, checked, say)
    if out is None and (folder / "torchard.json").is_file():
        with RunFolder.open(folder) as run:
            run.write("export", _beside(run.read("export") or {}, facts))
    return {"model": found.stage, "folder": str(target), **facts, **_costs(folder, found.stage)}


def _own_pictures(folder: Path) -> Sequence[Picture]:
    settings = RunFolder.view(folder).settings if (folder / "torchard.json").is_file() else {}
    if not isinstance(settings.get("data"), str):
        raise UsageError(f"{quote(folder)} names no data to check the export on; give --image FILE.")
    task = load_task(settings["data"], seed=int(settings.get("seed", 0)))
    return pictures(task.validation)


def _costs(folder: Path, stage: str) -> dict[str, Any]:
    """What pruning found of the model ``before`` and ``after``: params, MACs, bytes, latency in PyTorch."""
    if stage != "pruned" or not (folder / "torchard.json").is_file():
        return {}
    found = RunFolder.view(folder).read("prune") or {}
    return {name: found[name] for name in ("before", "after") if name in found}


def _beside(earlier: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The new facts, and what :func:`deploy` found of the unpruned model; both files were timed in turn."""
    if "tuned" not in earlier:
        return facts
    timed = facts["onnx"] | {"latency_ms": earlier["onnx"]["latency_ms"]}
    return earlier | facts | {"onnx": timed}


def _write(
    found: Built, target: Path, images: Sequence[Picture], say: Callable[[str], None]
) -> dict[str, Any]:
    facts = write_files(found.model, target, spec=found.spec, classes=found.classes, images=images, say=say)
    times = compare_latency(found.model, runner(target / ONNX), torch.zeros(1, 3, *found.spec.size))
    return {
        "onnx": facts["onnx"] | {"latency_ms": times.after.to_json()},
        "pt2": facts["pt2"],
        "eager": {"bytes": file_bytes(found.model), "latency_ms": times.before.to_json()},
    }
