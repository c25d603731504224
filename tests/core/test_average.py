"""The running average equals the recursion written out, and gives the model's own weights back."""

import copy

import pytest
import torch
from torch import nn

from torchard.core.average import WeightAverage


def test_average_equals_the_recursion_with_the_warm_decay():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.5)
    expected = model.weight.detach().double().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.tensors["weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_integer_buffers_are_copied_not_averaged():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model)
    model(torch.randn(4, 2))
    average.update(model)
    assert average.tensors["num_batches_tracked"].item() == 1


def test_swapped_gives_the_own_weights_back_bit_for_bit_also_after_an_error():
    model = nn.Linear(3, 2)
    average = WeightAverage(copy.deepcopy(model))
    with torch.no_grad():
        model.weight.mul_(3)
    own = model.weight.detach().clone()
    with average.swapped(model):
        assert torch.equal(model.weight, average.tensors["weight"])
    assert torch.equal(model.weight, own)
    with pytest.raises(RuntimeError, match="inside"), average.swapped(model):
        raise RuntimeError("inside")
    assert torch.equal(model.weight, own)


def test_state_goes_on_where_it_was():
    model = nn.Linear(3, 2)
    first, second = WeightAverage(model), WeightAverage(nn.Linear(3, 2))
    first.update(model)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        model.weight.add_(1)
    first.update(model)
    second.update(model)
    assert torch.equal(first.tensors["weight"], second.tensors["weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(nn.Linear(1, 1), decay=decay)
