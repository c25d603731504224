"""Finding, replacing, wrapping and freezing modules."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from torchard.core import surgery


class Twice(nn.Module):
    """One linear layer used in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(self.first, nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.block(self.first(x))


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Flatten(), nn.Linear(16, 5)
    )


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("1.*", ["1.0", "1.1"]),
        (re.compile(r"\d"), ["0", "1", "2", "3"]),
        (r"re:1\.\d", ["1.0", "1.1"]),
        (nn.Linear, ["3"]),
        ([nn.Linear, "0"], ["0", "3"]),
        ("*", ["0", "1", "1.0", "1.1", "2", "3"]),
    ],
    ids=str,
)
def test_find_by_glob_regex_and_type_keeps_the_models_order(net, patterns, names):
    assert list(surgery.find(net, patterns)) == names


def test_nothing_found_is_an_error_that_lists_near_names():
    net = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv9'.*layer1\.0\.conv1"):
        surgery.find(net, "layer1.0.conv9")
    with pytest.raises(ValueError, match=r"no module of type Conv3d.*Conv2d"):
        surgery.find(net, nn.Conv3d)


def test_replace_returns_the_old_module_and_reaches_every_place():
    net = Twice().eval()
    old, new = net.first, nn.Linear(4, 4)
    assert surgery.replace(net, "first", new) is old
    assert net.first is new
    assert net.block[0] is new
    assert not new.training


@pytest.mark.parametrize("name", ["", "third"])
def test_replace_refuses_unknown_names(name):
    with pytest.raises(ValueError, match=r"Nearest names: .*first"):
        surgery.replace(Twice(), name, nn.Identity())


def test_wrap_goes_from_the_inside_out(net):
    made = surgery.wrap(net, ["1", "1.0"], lambda module: nn.Sequential(module))
    assert list(made) == ["1", "1.0"]
    assert isinstance(net[1][0][0], nn.Sequential)
    assert isinstance(net[1][0][0][0], nn.BatchNorm2d)


def test_freeze_matches_modules_and_parameters_and_is_undone(net):
    net[3].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in net.parameters()]
    flags = surgery.freeze(net, ["1", "0.weight"])
    names = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert names == {"0.weight", "1.0.weight", "1.0.bias", "3.bias"}
    flags.restore()
    assert [parameter.requires_grad for parameter in net.parameters()] == before


def test_freeze_refuses_a_pattern_that_matches_nothing(net):
    with pytest.raises(ValueError, match="matches nothing"):
        surgery.freeze(net, ["0.weight", "9.*"])
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_flags_come_back_after_an_error(net):
    net.train()
    net[1].eval()
    with pytest.raises(ZeroDivisionError), surgery.flags_kept(net), surgery.frozen(net):
        _ = net.eval()[0].weight.requires_grad_(True).numel() / 0
    assert net.training
    assert not net[1][0].training
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: timm.create_model("resnet18"), "fc"),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), "head"),
        (lambda: timm.create_model("convnext_atto"), "head.fc"),
        (lambda: torchvision.models.mobilenet_v2(), "classifier.1"),
        (lambda: torchvision.models.squeezenet1_1(), "classifier.1"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), "2"),
    ],
    ids=["timm", "timm-two-heads", "timm-nested", "torchvision", "convolution", "plain"],
)
def test_classifier_name(make, name):
    with torch.device("meta"):
        assert surgery.classifier_name(make()) == name


def test_no_classifier_is_an_error():
    with pytest.raises(ValueError, match="no linear layer"):
        surgery.classifier_name(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
