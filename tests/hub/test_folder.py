"""A model in a folder comes back as it was, and a damaged folder gives one line."""

import json

import pytest
import timm
import torch

from torchard import hub
from torchard.core import checkpoint
from torchard.core.data.spec import InputSpec
from torchard.core.errors import FileRefusedError, UsageError
from torchard.hub import folder

SPEC = InputSpec((64, 48), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    folder.save(tmp_path / "net", model, name="test_resnet", input=SPEC, classes=["a", "b", "c"])
    return tmp_path / "net", model


def test_round_trip(saved):
    path, model = saved
    loaded = hub.load(str(path))
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=1e-5, atol=1e-6)
    assert hub.input_spec(loaded) == hub.input_spec(str(path)) == SPEC
    assert loaded.pretrained_cfg["label_names"] == ("a", "b", "c")
    assert hub.load(str(path), num_classes=7).num_classes == 7


def test_folders_are_listed_by_glob(saved, tmp_path, monkeypatch):
    path, _ = saved
    (tmp_path / "empty").mkdir()
    (listed,) = hub.list_models(f"{tmp_path}/*", source="folder")
    assert listed.name == str(path)
    assert listed.available
    monkeypatch.chdir(tmp_path)
    assert [model.name for model in hub.list_models(source="folder")] == ["net"]
    (path / "model.safetensors").unlink()
    assert "missing" in hub.list_models(source="folder")[0].why_not
    (path / "model.json").write_text("{")
    assert not hub.list_models(source="folder")[0].available


def test_the_folder_of_a_run_gives_its_tuned_model(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2).eval()
    checkpoint.save_tensors(tmp_path / "tuned.safetensors", model.state_dict())
    tune = {"model": "test_resnet", "input": SPEC.to_json(), "candidates": []}
    (tmp_path / "tune.json").write_text(json.dumps(tune))
    (tmp_path / "data.json").write_text(json.dumps({"classes": ["good", "bad"]}))
    loaded = hub.load(str(tmp_path))
    assert loaded.num_classes == 2
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=1e-5, atol=1e-6)


def test_a_run_that_tuned_a_model_from_a_folder_names_its_architecture(saved, tmp_path):
    path, model = saved
    run = tmp_path / "run"
    run.mkdir()
    checkpoint.save_tensors(run / "tuned.safetensors", model.state_dict())
    tune = {"model": str(path), "architecture": hub.architecture(str(path)), "input": SPEC.to_json()}
    (run / "tune.json").write_text(json.dumps(tune))
    (run / "data.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    assert hub.architecture(str(run)) == hub.architecture("test_resnet") == "test_resnet"
    assert torch.equal(hub.load(str(run)).fc.weight, model.fc.weight)


def test_only_a_known_name_has_an_architecture():
    assert hub.architecture("mobilenetv2_100") == "mobilenetv2_100"
    with pytest.raises(UsageError, match="local-dir"):
        hub.architecture("local-dir:/tmp")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "hf-hub:timm/resnet18"),
        ("model", "os:system"),
        ("model", "local-dir:/tmp"),
        ("model", 3),
        ("num_classes", -1),
        ("num_classes", 10**12),
        ("num_classes", True),
        ("num_classes", "3"),
        ("num_classes", 4),
        ("input", None),
        ("input", {"size": [10**9, 1]}),
        ("input", {**SPEC.to_json(), "std": [0, 1, 1]}),
        ("weights", "../net/model.safetensors"),
        ("weights", "/etc/passwd"),
        ("weights", ""),
        ("weights", None),
    ],
    ids=str,
)
def test_a_bad_card_is_refused_in_one_line(saved, key, value):
    path, _ = saved
    card = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(card | {key: value}))
    with pytest.raises(FileRefusedError) as caught:
        hub.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '"x"', '{"model": NaN}', '{"model":1,"model":2}', "[" * 2000])
def test_a_card_that_is_no_object_is_refused(saved, text):
    path, _ = saved
    (path / "model.json").write_text(text)
    with pytest.raises(FileRefusedError):
        hub.load(str(path))


def test_weights_of_another_network_or_with_nan_are_refused(saved):
    path, model = saved
    state = model.state_dict()
    checkpoint.save_tensors(path / "model.safetensors", {name: state[name] for name in list(state)[1:]})
    with pytest.raises(FileRefusedError, match=next(iter(state))):
        hub.load(str(path))
    state["fc.bias"] = torch.full_like(state["fc.bias"], float("inf"))
    checkpoint.save_tensors(path / "model.safetensors", state)
    with pytest.raises(FileRefusedError, match=r"fc\.bias"):
        hub.load(str(path))


def test_save_refuses_what_could_not_be_loaded(tmp_path, saved):
    _, model = saved
    with pytest.raises(ValueError, match="no architecture"):
        folder.save(tmp_path / "x", model, name="my_net", input=SPEC)
    with pytest.raises(ValueError, match="2 classes"):
        folder.save(tmp_path / "x", model, name="test_resnet", input=SPEC, classes=["a", "b"])
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_model_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="holds no model"):
        folder.load_folder(tmp_path, num_classes=None, pretrained=True)
