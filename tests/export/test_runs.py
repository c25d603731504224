import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchard.core.errors import FileRefusedError, UsageError
from torchard.export.runs import open_run


def test_a_run_folder_or_the_file_itself_can_be_given(exported):
    assert open_run(exported.path.parent).classes == open_run(exported.path).classes


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_model_is_wrong_use(tmp_path, name):
    with pytest.raises(UsageError, match=r"model\.onnx"):
        open_run(tmp_path / name)


def external(tensor: TensorProto) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def as_initializer(model, tensor):
    model.graph.initializer.append(tensor)


def as_constant(model, tensor):
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_a_branch(model, tensor):
    graph = helper.make_graph([], "branch", [], [], initializer=[tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=graph, else_branch=graph))


def in_a_function(model, tensor):
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("local", "f", [], ["c"], [node], []))


def as_a_sparse_one(model, tensor):
    indices = numpy_helper.from_array(np.arange(2))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [2]))


@pytest.mark.parametrize("place", [as_initializer, as_constant, in_a_branch, in_a_function, as_a_sparse_one])
def test_weights_in_other_files_are_refused_wherever_they_hide(exported, tmp_path, place):
    model = onnx.load(exported.path)
    place(model, external(numpy_helper.from_array(np.zeros(2, np.float32), "w")))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileRefusedError, match="other files"):
        open_run(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(exported, tmp_path, keep):
    content = exported.path.read_bytes()
    end = keep if isinstance(keep, int) else int(keep * len(content))
    (tmp_path / "model.onnx").write_bytes(content[:end])
    with pytest.raises(FileRefusedError, match=r"model\.onnx"):
        open_run(tmp_path)


def test_another_maker_s_model_is_refused(exported, tmp_path):
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(FileRefusedError, match="metadata"):
        open_run(tmp_path)


def test_opening_a_run_loads_no_torch(exported):
    program = (
        "import sys; from pathlib import Path; from torchard.export.runs import open_run;"
        f"open_run(Path({str(exported.path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
