"""Cutting a model, its optimiser and its masks: identities that must hold exactly."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.prune.depgraph.networks import Residual, perturbed, plain
from torchard.prune.depgraph import Plan, apply, mask, merge, plan, plan_for, prune, trace

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_ratio_zero_changes_nothing():
    model = perturbed(Residual())
    before = tensors(model)
    prune(model, X, ratio=0.0)
    assert same(before, tensors(model))


def test_a_plan_is_applied_once():
    model = Residual()
    chosen = plan(trace(model, X), ratio=0.5)
    apply(model, chosen)
    before = tensors(model)
    with pytest.raises(ValueError, match="applied once"):
        apply(model, chosen)
    assert same(before, tensors(model))


def test_a_plan_for_another_model_is_refused():
    with pytest.raises(ValueError, match="another model"):
        apply(Residual(), plan(trace(plain(), X), ratio=0.5))


def test_removing_a_mask_restores_every_bit():
    model = perturbed(Residual()).eval()
    before, output = tensors(model), model(X)
    handle = mask(model, plan(trace(model, X), ratio=0.5))
    assert not same(before, tensors(model))
    assert not torch.equal(output, model(X))
    handle.remove()
    assert same(before, tensors(model))


def test_a_masked_model_equals_the_cut_one():
    model = perturbed(Residual()).eval()
    handle = mask(model, plan(trace(model, X), ratio=0.5))
    masked = model(X)
    handle.finalize()
    torch.testing.assert_close(masked, model(X), rtol=1e-5, atol=1e-6)


def test_not_in_place_leaves_the_model_alone():
    model = Residual()
    before = tensors(model)
    report = apply(model, plan(trace(model, X), ratio=0.5), inplace=False)
    assert same(before, tensors(model))
    assert report.model.stem[0].out_channels == 4


@pytest.mark.parametrize(
    "build",
    [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.01)],
    ids=["sgd", "adamw"],
)
def test_an_optimiser_goes_on_with_cut_state(build):
    """A step after cutting equals the cut of a step on the masked problem: the state went along."""
    model = perturbed(plain())
    optimizer = build(list(model.parameters()))
    model(X).square().sum().backward()
    optimizer.step()
    chosen = plan(trace(model, X), ratio=0.5)
    kept = {name: {d: torch.tensor(k) for d, k in dims.items()} for name, dims in chosen.slices.items()}
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    for one, other in zip(twin.parameters(), model.parameters()):
        one.grad = other.grad.clone()
    twin_optimizer.step()  # same gradients, whole model
    apply(model, chosen, optimizer=optimizer)
    optimizer.step()
    for name, value in twin.named_parameters():
        expected = value.detach()
        for dim, positions in kept.get(name, {}).items():
            expected = expected.index_select(dim, positions)
        torch.testing.assert_close(model.get_parameter(name).detach(), expected)


def test_state_of_another_shape_is_refused_before_anything_changes():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[0].weight]["row"] = torch.zeros(3)
    before = tensors(model)
    with pytest.raises(ValueError, match="build a new optimiser"):
        apply(model, plan(trace(model, X), ratio=0.5), optimizer=optimizer)
    assert same(before, tensors(model))


def test_channels_last_and_flags_survive():
    model = Residual().to(memory_format=torch.channels_last).train()
    model.stem[1].eval()
    prune(model, X, ratio=0.5)
    assert model.first[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model.training
    assert not model.stem[1].training


def test_a_plan_survives_json():
    chosen = plan(trace(Residual(), X), ratio=0.5)
    assert Plan.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_plans_merge():
    graph = trace(Residual(), X)
    name = graph.groups()[0].id
    both = merge(graph, plan_for(graph, {name: [0]}), plan_for(graph, {name: [2]}))
    assert both.removed == {name: [0, 2]}


@pytest.mark.parametrize(("units", "message"), [([99], "has units 0"), (range(8), "leave nothing")])
def test_impossible_removals_are_refused(units, message):
    graph = trace(Residual(), X)
    with pytest.raises(ValueError, match=message):
        plan_for(graph, {"stem.0.weight": list(units)})
