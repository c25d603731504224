import copy
import json
import resource

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from tests.export.models import CLASSES, SPEC, FrozenBatch, small_net
from torchard.core.data import InputSpec, preprocess
from torchard.core.errors import ExportMismatchError, UsageError
from torchard.core.pixels import open_image
from torchard.export import onnx as module
from torchard.export.onnx import export_onnx
from torchard.export.program import export_pt2


def eager(model: nn.Module, path) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(preprocess(open_image(path), SPEC))[None]).numpy()[0]


def test_the_report_tells_what_was_found(exported):
    report = exported.report
    assert report.images == len(exported.files)
    assert report.bytes == exported.path.stat().st_size
    assert report.max_abs_diff <= 1e-3
    assert report.to_json()["labels_equal"] is True


def test_any_batch_gives_the_eager_answers_in_one_file(exported):
    session = onnxruntime.InferenceSession(exported.path.read_bytes())
    expected = np.stack([eager(exported.model, file) for file in exported.files])
    inputs = np.stack([preprocess(open_image(file), SPEC) for file in exported.files])
    for batch in (1, 3, 8):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": inputs[:batch]})
        np.testing.assert_allclose(logits, expected[:batch], atol=1e-5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert sorted(path.name for path in exported.path.parent.iterdir()) == ["images", "model.onnx"]


def test_the_metadata_say_all_that_preprocessing_needs(exported):
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(exported.path).metadata_props}
    assert metadata.pop("torchard")
    assert metadata.pop("classes") == list(CLASSES)
    assert metadata == {"size": [24, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
                        "interpolation": "bicubic", "rule": "crop"}  # fmt: skip


def test_nothing_of_this_machine_is_in_the_file(exported):
    content = exported.path.read_bytes()
    assert b"stack_trace" not in content
    assert __file__.rsplit("/", 3)[0].encode() not in content


def test_batch_normalisation_is_folded(exported):
    operators = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert "BatchNormalization" not in operators
    assert not operators & {"Gather", "Range"}  # what channels_last would leave behind


def test_the_model_is_left_as_it_was(tmp_path):
    model = small_net().train()
    model[0].weight.requires_grad_(False)
    before, state = [p.requires_grad for p in model.parameters()], copy.deepcopy(model.state_dict())
    export_onnx(
        model, tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=[Image.new("RGB", (40, 40), "red")]
    )
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_fewer_channels_make_a_smaller_file(exported, tmp_path):
    report = export_onnx(
        small_net(width=4), tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:2]
    )
    assert report.bytes < exported.report.bytes


def test_a_hub_model_in_channels_last_exports(exported, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=3).eval().to(memory_format=torch.channels_last)
    spec = InputSpec(size=(64, 64))
    report = export_onnx(model, tmp_path / "m.onnx", spec=spec, classes=CLASSES, images=exported.files[:3])
    assert report.bytes < 6 * sum(p.numel() for p in model.parameters())


def test_another_answer_is_a_mismatch_that_names_the_image_and_keeps_the_file(
    exported, tmp_path, monkeypatch
):
    right = module.exportable

    def wrong(model: nn.Module) -> nn.Module:
        clone = right(model)
        clone[-1].bias += 0.01
        return clone

    monkeypatch.setattr(module, "exportable", wrong)
    path = tmp_path / "m.onnx"
    path.write_text("the file before")
    with pytest.raises(ExportMismatchError, match=r"colour\.jpg.*m\.onnx\.rejected"):
        export_onnx(exported.model, path, spec=SPEC, classes=CLASSES, images=exported.files)
    assert path.read_text() == "the file before"
    assert onnx.load(tmp_path / "m.onnx.rejected").graph.node
    assert len(list(tmp_path.iterdir())) == 2


def test_a_flipped_label_is_a_mismatch_however_small_the_difference(exported, tmp_path, monkeypatch):
    model = copy.deepcopy(exported.model)
    nn.init.zeros_(model[-1].weight)
    model[-1].bias.data = torch.tensor([1e-5, 0.0, 0.0])
    right = module.exportable

    def wrong(net: nn.Module) -> nn.Module:
        clone = right(net)
        clone[-1].bias[1] = 2e-5
        return clone

    monkeypatch.setattr(module, "exportable", wrong)
    with pytest.raises(ExportMismatchError, match="class 0 to the eager model and 1"):
        export_onnx(model, tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:1])


@pytest.mark.parametrize(("export", "name"), [(export_onnx, "m.onnx"), (export_pt2, "m.pt2")])
def test_a_full_disk_is_one_line_and_the_file_before_is_kept(exported, tmp_path, export, name):
    (tmp_path / name).write_text("the file before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(OSError, match="bytes needed") as caught:
            export(exported.model, tmp_path / name, spec=SPEC, classes=CLASSES, images=exported.files[:1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the file before"]


def test_a_compiled_model_is_exported_as_what_was_compiled(exported, tmp_path):
    compiled = torch.compile(exported.model)
    report = export_onnx(compiled, tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:2])
    assert report.bytes == exported.report.bytes


def test_what_no_single_file_can_hold_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(RuntimeError, match="too large for one ONNX file"):
        export_onnx(
            exported.model, tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:1]
        )


def test_no_images_no_export(tmp_path):
    with pytest.raises(UsageError, match="`images` is empty"):
        export_onnx(small_net(), tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=[])


def test_as_many_classes_as_outputs(exported, tmp_path):
    with pytest.raises(ValueError, match="2 names, the model 3"):
        export_onnx(
            exported.model, tmp_path / "m.onnx", spec=SPEC, classes=("a", "b"), images=exported.files[:1]
        )


def test_a_model_that_answers_with_nan_is_not_exported(exported, tmp_path):
    model = copy.deepcopy(exported.model)
    model[-1].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"colour\.jpg.*NaN"):
        export_onnx(model, tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:1])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_told_in_one_line(exported, tmp_path):
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, images):
            answer = self.net(images)
            return answer if answer.sum() > 0 else -answer

    with pytest.raises(RuntimeError, match="Branches cannot be exported to ONNX") as caught:
        export_onnx(Branches(), tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:1])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_batch_size_written_down_is_found(exported, tmp_path):
    with pytest.raises((RuntimeError, ValueError)):
        export_onnx(FrozenBatch(), tmp_path / "m.onnx", spec=SPEC, classes=CLASSES, images=exported.files[:2])
    assert not (tmp_path / "m.onnx").exists()
