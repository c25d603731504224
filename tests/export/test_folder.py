from tests.export.models import CLASSES, SPEC, small_net
from torchard.core.budget import file_bytes
from torchard.export.folder import export_into


def test_a_folder_gets_every_form_and_its_facts(exported, tmp_path):
    before, images = small_net(width=16), exported.files[:2]
    facts = export_into(
        tmp_path, exported.model, spec=SPEC, classes=CLASSES, images=images, before=before, rounds=1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2", "predict.py"]
    assert facts["onnx"]["file"] == "model.onnx"
    assert facts["pt2"]["labels_equal"] is True
    assert facts["eager"]["bytes"] == file_bytes(exported.model) < facts["tuned"]["bytes"]
    assert all(facts[name]["latency_ms"]["median"] > 0 for name in ("onnx", "eager", "tuned"))
