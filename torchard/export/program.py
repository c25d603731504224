"""Write a classifier as a ``.pt2`` program of ``torch.export``, for whoever deploys with PyTorch itself.

Only files written here are opened here: torch's loader of ``.pt2`` falls back to pickle, so a stranger's is
never opened by torchard, whatever the option.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from torchard.core.data import InputSpec
from torchard.export.check import ExportReport, Picture, apply, as_files, checked_file, compare, eager_logits
from torchard.export.onnx import exportable, metadata


def export_pt2(
    model: nn.Module,
    path: Path,
    *,
    spec: InputSpec,
    classes: Sequence[str],
    images: Sequence[Picture],
    atol: float = 1e-3,
) -> ExportReport:
    """Write `model` to `path` as a ``.pt2`` file, load it again and return what the check on `images` found.

    ``torch.export.load(path).module()`` maps normalised images, any number of them, to logits; what
    :func:`torchard.export.onnx.metadata` says lies in the file as ``torchard.json``. `model` is left as it
    was.

    Raises:
        UsageError: if `images` is empty.
        ValueError: if `classes` does not fit the model, or the model answers with NaN.
        RuntimeError: if the model cannot be traced; the reason is told.
        ExportMismatchError: if the file answers differently; it is kept beside `path` as ``.rejected``.
    """
    path = Path(path)
    with as_files(images) as files:
        expected = eager_logits(model, files, spec, classes=classes)
        program = _trace(model, spec)
        content = _serialised(program, metadata(spec, classes))
        with checked_file(path, needed=len(content)) as unchecked:
            unchecked.write_bytes(content)
            loaded = _load_own(unchecked)
            answered = apply(lambda batch: loaded(batch).detach(), files, spec)
            difference = compare(expected, answered, files, atol=atol)
            # A batch size frozen into the program shows where only one image is given.
            alone = apply(lambda batch: loaded(batch).detach(), files[:3], spec, batch=1)
            compare(expected[:3], alone, files[:3], atol=atol)
    return ExportReport(path, path.stat().st_size, len(files), difference)


def _trace(model: nn.Module, spec: InputSpec) -> torch.export.ExportedProgram:
    example = torch.zeros(2, 3, *spec.size)
    try:
        program = torch.export.export(
            exportable(model), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    except Exception as error:  # the model's own code runs here and may raise anything
        reason = str(error).strip().splitlines() or [""]
        raise RuntimeError(
            f"{type(model).__name__} cannot be exported by torch.export: {type(error).__name__}: {reason[0]}"
        ) from None
    program.example_inputs = None  # a random picture as a pickle
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines and paths of this machine
    return program


def _serialised(program: torch.export.ExportedProgram, values: dict[str, str]) -> bytes:
    """The file in memory: torch's own writer tells a full disk with a page of its frames."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"torchard.json": json.dumps(values)})
    return buffer.getvalue()


def _load_own(path: Path) -> nn.Module:
    """Only for the file just written; by file object, since torch wants names that end in .pt2."""
    with path.open("rb") as file:
        return torch.export.load(file).module()
