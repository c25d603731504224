"""Open the exported model of a run folder, which may have come from a stranger. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path

import onnx

from torchard.core.errors import FileRefusedError, UsageError
from torchard.core.files import quote
from torchard.export.standalone import OnnxModel, open_model

MAX_BYTES = 2 << 30  # what one protocol buffer may hold


def open_run(run: Path, *, threads: int = 0) -> OnnxModel:
    """Return the model in ``model.onnx`` of the run folder `run`, or in the ``.onnx`` file `run` itself.

    ONNX files hold operators and weights, no code. One that points to further files is refused, since such
    names can lead anywhere; torchard writes single files.

    Raises:
        UsageError: if there is no such file.
        FileRefusedError: if it is damaged, too large, points to other files, or was not written by torchard.
    """
    path = run if run.suffix == ".onnx" else run / "model.onnx"
    if not path.is_file():
        raise UsageError(
            f"{quote(run)} holds no model.onnx. "
            "Give a run folder that `torchard fit` or `torchard export` filled."
        )
    if path.stat().st_size > MAX_BYTES:
        raise FileRefusedError(f"{quote(path)} is refused: larger than {MAX_BYTES:,} bytes.")
    _refuse_other_files(path)
    try:
        return open_model(path, threads=threads)
    except ValueError as error:
        raise FileRefusedError(str(error)) from None


def _refuse_other_files(path: Path) -> None:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own classes differ between its implementations
        raise FileRefusedError(f"{quote(path)} is refused: no ONNX file ({type(error).__name__}).") from None
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise FileRefusedError(f"{quote(path)} is refused: its weights lie in other files.")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    training = [graph for info in model.training_info for graph in (info.algorithm, info.initialization)]
    graphs = [model.graph, *training]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g, *attribute.graphs]
