"""Which convolution feeds which batch norm."""

import pytest
import timm
import torch
from torch import nn

from torchard.tune.pairs import ConvBN, find_pairs


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 20), ("resnet50", 53), ("tf_efficientnet_lite0", 49)]
)
def test_watching_and_tracing_find_the_same_pairs(name, count):
    model = timm.create_model(name)
    watched = find_pairs(model, torch.randn(1, 3, 32, 32))
    assert len(watched) == count
    assert set(watched) == set(find_pairs(model))
    assert watched.skipped == {}


class Forked(nn.Module):
    """One convolution with a second consumer, one called twice with two norms, one norm on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.forked, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.after_fork, self.first, self.second, self.alone = (nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.forked(images)
        maps = self.after_fork(maps) + maps
        maps = self.first(self.twice(maps))
        maps = self.second(self.twice(maps))
        return self.alone(maps)


@pytest.mark.parametrize("example", [torch.randn(2, 3, 5, 5), None], ids=["watched", "traced"])
def test_an_output_used_twice_is_no_pair_and_a_shared_conv_makes_two(example):
    found = find_pairs(Forked(), example)
    assert found.pairs == (ConvBN("twice", "first"), ConvBN("twice", "second"))
    assert "used elsewhere" in found.skipped["after_fork"]
    assert "not always the output" in found.skipped["alone"]


class Returning(nn.Module):
    """The convolution's output leaves the model beside the normalised one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.conv(images)
        return [maps, self.bn(maps)]


@pytest.mark.parametrize("example", [torch.randn(2, 3, 5, 5), None], ids=["watched", "traced"])
def test_an_output_that_is_returned_is_no_pair(example):
    assert len(find_pairs(Returning(), example)) == 0


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.block(images)
        return self.bn(self.conv(maps)) if maps.sum() > -1e9 else maps


def test_without_example_traceable_parts_are_still_found():
    assert find_pairs(Untraceable()).pairs == (ConvBN("block.0", "block.1"),)
    assert "example" in find_pairs(Untraceable()).skipped["bn"]
    assert len(find_pairs(Untraceable(), torch.randn(1, 3, 4, 4))) == 2


def test_looking_changes_nothing():
    model = Forked().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_pairs(model, torch.randn(2, 3, 5, 5))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
