"""A small exported model to serve, made without an exporter: it sees the mean colour of a picture."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchard.core.data import InputSpec
from torchard.export.onnx import metadata
from torchard.export.runs import open_run
from torchard.export.standalone import OnnxModel

CLASSES = ("red", "green", '<img src=x onerror=document.documentElement.dataset.owned="1">é 🍎')


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.onnx``, whose classes are the colour channels."""
    spec = InputSpec(size=(8, 6), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *spec.size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        numpy_helper.from_array(np.array(10, np.float32), "ten"),
    ]
    graph = helper.make_graph(nodes, "colour", [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata(spec, CLASSES))
    folder = tmp_path_factory.mktemp("run")
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="session")
def model(run: Path) -> OnnxModel:
    return open_run(run)
