"""core.layout: inputs lie in memory as the model's convolutions do."""

import pytest
import torch
from torch import nn

from torchard.core.data import Batch
from torchard.core.layout import memory_format, placed, placed_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "last"),
    [
        (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), True),
        (nn.Conv2d(3, 4, 3), False),
        (nn.Linear(3, 4), False),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last), True),
        (nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last), False),  # one channel lies both ways
        (nn.Conv3d(3, 4, 3), False),
        (nn.Module(), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_memory_format_is_the_models(model, last):
    assert memory_format(model) is (torch.channels_last if last else torch.contiguous_format)


def test_images_are_laid_out_and_everything_else_is_left():
    images = placed(torch.randn(2, 3, 4, 5), CPU, torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert placed(images, CPU, torch.channels_last) is images
    vectors = torch.randn(2, 3)
    assert placed(vectors, CPU, torch.channels_last) is vectors


def test_a_batch_is_placed_whole():
    batch = Batch(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.arange(2))
    found = placed_batch(batch, torch.device("meta"), torch.channels_last)
    assert {found.inputs.device.type, found.targets.device.type, found.indices.device.type} == {"meta"}
    assert found.inputs.is_contiguous(memory_format=torch.channels_last)
    assert found.targets.is_contiguous()
