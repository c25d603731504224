"""The decisive check, on networks each with one thing that is easy to get wrong."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from experiments.prune.patterns import PATTERNS
from tests.prune.depgraph.networks import Residual
from torchard.prune.depgraph import apply, plan, plan_for, trace, verify

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
# Sizes written into the code: nothing else is left to prune.
REFUSED = {"literal_slice"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("name", sorted(set(PATTERNS) - REFUSED))
def test_cutting_equals_silencing(name):
    model, inputs = PATTERNS[name]()
    chosen = plan(trace(model, inputs), ratio=0.5, criterion="random", seed=3)
    assert chosen.removed
    checked = verify(model, chosen, inputs)
    assert checked.error < 1e-5 < checked.moved, checked
    run = (lambda m: m(*inputs)) if isinstance(inputs, tuple) else (lambda m: m(inputs))
    before = run(model)
    apply(model, chosen)
    after = run(model)
    if isinstance(before, Tensor):
        assert after.shape == before.shape
        after.sum().backward()


def test_a_wrong_column_is_noticed():
    model = Residual()
    chosen = plan(trace(model, X), ratio=0.5)
    slices = {**chosen.slices, "head.weight": {1: [k ^ 1 for k in chosen.slices["head.weight"][1]]}}
    assert verify(model, chosen, X).passed
    assert verify(model, dataclasses.replace(chosen, slices=slices), X).error > 1e-3


def test_a_plan_that_changes_no_output_does_not_pass():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    example = torch.randn(3, 4)
    checked = verify(model, plan_for(trace(model, example), {"0.weight": [0]}), example)
    assert checked.error < 1e-6
    assert not checked.passed


def test_the_model_itself_is_left_alone():
    model = Residual().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verify(model, plan(trace(model, X), ratio=0.5), X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_a_model_that_runs_differently_each_time_is_said_to_be_unverifiable():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
            self.mood = [0]

        def forward(self, x: Tensor) -> Tensor:
            self.mood[0] += 1
            hidden = self.first(x)
            for _ in range(self.mood[0]):
                hidden = hidden.relu()
            return self.second(hidden)

    model = Moody()
    model.mood = torch.zeros(1).long()  # a tensor of its own that tracing does not put back
    with pytest.raises(ValueError, match="two runs of the model differ"):
        verify(model, plan(trace(model, torch.randn(1, 4)), ratio=0.5), torch.randn(1, 4))
