"""One door for all sources; no connection unless weights must be fetched, and then one question."""

import socket
import urllib.error
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from torchard import hub
from torchard.core.errors import FileRefusedError, UsageError
from torchard.hub import online


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was attempted"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Weights of a tiny timm model, as if they had been downloaded before."""

    def put(change=lambda state: state) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        state = change(timm.create_model("test_vit").state_dict())
        save_file(state, tmp_path / "model.safetensors")
        monkeypatch.setattr(
            huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors")
        )
        return state

    return put


def test_listing_needs_no_network(no_network):
    packaged = hub.list_models(source="packaged")
    assert [model.name for model in packaged][:2] == ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]
    found = hub.list_models("*lite0*")
    assert {model.source for model in found} == {"packaged", "timm"}
    assert all(model.available or model.why_not for model in found)
    assert hub.list_models("no such model") == []
    assert found[0].to_json()["input"]["size"] == [224, 224]


def test_cached_timm_weights_load_without_network(no_network, cached):
    state = cached()
    assert hub.list_models("test_vit.r160_in1k", source="timm")[0].available
    model = hub.load("test_vit.r160_in1k")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_timm_weights_with_nan_are_refused(cached):
    cached(lambda state: state | {"norm.bias": torch.full_like(state["norm.bias"], float("nan"))})
    with pytest.raises(FileRefusedError, match=r"norm\.bias"):
        hub.load("test_vit.r160_in1k")


def test_timm_weights_of_another_network_are_refused(cached):
    cached(lambda state: {"other": torch.zeros(2)})
    with pytest.raises(UsageError, match="test_vit"):
        hub.load("test_vit.r160_in1k")


def test_offline_is_one_line_after_one_question(monkeypatch):
    asked = []

    def refuse(request, timeout):
        asked.append(timeout)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("retried"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UsageError, match=r"'resnet18' .*cannot be reached.*hub list") as caught:
        hub.load("resnet18")
    assert asked == [online.PROBE_SECONDS]
    assert "\n" not in str(caught.value)


def test_pickle_only_models_are_refused(monkeypatch):
    def missing(repository, name):
        assert name == "model.safetensors"
        raise huggingface_hub.errors.EntryNotFoundError("404: no model.safetensors\nlong trace")

    monkeypatch.setattr(online, "_online", lambda: True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    with pytest.raises(UsageError, match=r"safetensors: 404") as caught:
        hub.load("resnet18")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet_18x", "", "hf-hub:timm/resnet18", "local-dir:/tmp", "/nowhere"])
def test_unknown_names_are_refused_before_anything_is_opened(no_network, name):
    for ask in (hub.load, hub.input_spec):
        with pytest.raises(UsageError, match="No model is called"):
            ask(name)


@pytest.mark.parametrize(("wanted", "got"), [(None, 1000), (0, 0), (7, 7)])
def test_number_of_classes(wanted, got):
    model = hub.load("test_resnet", num_classes=wanted, pretrained=False)
    assert model.num_classes == got
    assert model(torch.zeros(1, 3, 64, 64)).shape[1] == (got or model.num_features)


@pytest.mark.parametrize("count", [-1, 10**9])
def test_absurd_class_counts_are_refused(count):
    with pytest.raises(ValueError, match="num_classes"):
        hub.load("test_resnet", num_classes=count, pretrained=False)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet", "test_vit"])
def test_every_model_has_timms_methods_and_is_ready(name):
    model = hub.load(name, pretrained=False, num_classes=3)
    images = torch.zeros(2, 3, *hub.input_spec(model).size)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(model.get_classifier()(features), model(images))
    assert features.shape == (2, model.num_features)
    assert not any(module.training for module in model.modules())


def test_input_size_can_be_chosen_unless_the_model_fixes_it():
    assert hub.input_spec("tf_efficientnet_lite0", 128).size == (128, 128)
    assert hub.input_spec("resnet18", (96, 160)).size == (96, 160)
    assert hub.input_spec("vit_tiny_patch16_224", 224).size == (224, 224)
    with pytest.raises(ValueError, match="no other"):
        hub.input_spec("vit_tiny_patch16_224", 192)
    with pytest.raises(ValueError, match="pretrained_cfg"):
        hub.input_spec(torch.nn.Linear(2, 2))
