"""Write a classifier as one ONNX file that carries its classes and preprocessing, checked on image files.

Input ``images``: float32, ``(batch, 3, height, width)``, normalised; the batch may be of any size. Outputs
``logits`` and ``probabilities``. The metadata ``classes``, ``size`` (height, width), ``mean``, ``std``,
``interpolation`` and ``rule`` are JSON; ``torchard`` is the version that wrote them.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard import __version__
from torchard.core.data import InputSpec
from torchard.core.errors import ExportMismatchError
from torchard.core.pixels import open_image
from torchard.export.check import (
    ExportReport,
    Picture,
    as_files,
    checked_file,
    compare,
    eager_logits,
    fresh_process_logits,
    uncompiled,
)
from torchard.export.standalone import open_model

MAX_BYTES = 2_000_000_000  # one protocol buffer holds 2 GiB, and there is the graph besides


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    spec: InputSpec,
    classes: Sequence[str],
    images: Sequence[Picture],
    atol: float = 1e-3,
) -> ExportReport:
    """Write `model` to `path` as one ONNX file and return what the check on `images` found.

    A fresh process with ONNX Runtime, Pillow and NumPy, but without torch, names the same image files; every
    label must be the eager model's and every probability within `atol`, as :func:`compare` says. Weights are
    stored in float32 and batch normalisation is folded. `model` is left as it was. Some ten seconds for a
    MobileNet, one copy in memory.

    Raises:
        UsageError: if `images` is empty.
        ValueError: if `classes` does not fit the model, or the model answers with NaN.
        RuntimeError: if the model cannot be traced, or is too large for one file; the reason is told.
        ExportMismatchError: if the file answers differently; it is kept beside `path` as ``.rejected``.
    """
    path = Path(path)
    with as_files(images) as files:
        expected = eager_logits(model, files, spec, classes=classes)
        program = _trace(model, spec)
        _describe(program.model, metadata(spec, classes))
        content = program.model_proto.SerializeToString()
        with checked_file(path, needed=len(content)) as unchecked:
            unchecked.write_bytes(content)
            difference = _check(unchecked, files, expected, atol)
    return ExportReport(path, path.stat().st_size, len(files), difference)


def metadata(spec: InputSpec, classes: Sequence[str]) -> dict[str, str]:
    """Return what an exported file says of itself, each value as JSON in ASCII, so that any name survives."""
    values = {**spec.to_json(), "classes": list(classes), "torchard": __version__}
    return {name: json.dumps(value) for name, value in values.items()}


class Answers(nn.Module):
    """A classifier that gives its logits and, beside them, their softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        logits = self.model(images)
        return logits, logits.softmax(dim=1)


def exportable(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float32, evaluation mode and the plain memory format.

    In channels_last the exporter writes strides down as gather operations.
    """
    clone = (
        copy.deepcopy(uncompiled(model)).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    )
    return clone.eval().requires_grad_(False)


def _trace(model: nn.Module, spec: InputSpec) -> Any:
    if 4 * sum(tensor.numel() for tensor in model.state_dict().values()) > MAX_BYTES:
        raise RuntimeError(
            f"{type(model).__name__} is too large for one ONNX file: more than {MAX_BYTES:,} bytes."
        )
    example = torch.zeros(2, 3, *spec.size)
    try:
        return torch.onnx.export(
            Answers(exportable(model)).eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # the exporter lets through whatever the model's own code raises
        raise RuntimeError(f"{type(model).__name__} cannot be exported to ONNX: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: those around it are advice for the exporter's own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _describe(model: onnx_ir.Model, values: dict[str, str]) -> None:
    """Set the metadata, and drop the exporter's own: source lines, stack traces and paths of this machine."""
    graph = model.graph
    held: list[Any] = [model, graph, *graph.inputs, *graph.outputs, *graph.initializers.values()]
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        held += [node, *node.outputs]
    for thing in held:
        thing.metadata_props.clear()
        thing.doc_string = None
    model.producer_name, model.producer_version = "torchard", __version__
    model.metadata_props.update(values)


def _check(path: Path, files: Sequence[Path], expected: np.ndarray, atol: float) -> float:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportMismatchError(f"The file breaks the ONNX rules: {str(error).splitlines()[0]}") from None
    difference = compare(expected, fresh_process_logits(path, files), files, atol=atol)
    _check_one_by_one(path, files[:3], expected[:3], atol)
    return difference


def _check_one_by_one(path: Path, files: Sequence[Path], expected: np.ndarray, atol: float) -> None:
    """A batch of one is what servers send, and where a batch size frozen into the graph shows."""
    runtime = open_model(path)
    answered = np.concatenate([runtime.logits([open_image(file)]) for file in files])
    compare(expected, answered, files, atol=atol)
