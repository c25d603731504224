"""The regulariser's gradient, exactly."""

import pytest
import torch
from torch import nn

from tests.prune.depgraph.networks import Residual, perturbed
from torchard.core.callback import TrainingRun
from torchard.prune.depgraph import GroupSparsity, group_sparsity_, trace
from torchard.prune.depgraph.sparsity import shrinkage

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def run_of(model: nn.Module) -> TrainingRun:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingRun(model, optimizer, torch.Generator(), lambda **_: None)


def zero_gradients(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def test_shrinkage_of_one_two_three_is_sixteen_four_one():
    assert shrinkage(torch.tensor([1.0, 2.0, 3.0])).tolist() == [16, 4, 1]
    assert shrinkage(torch.tensor([2.0, 2.0])).tolist() == [1, 1]


def test_the_gradient_is_lambda_gamma_weight():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    zero_gradients(model)
    group_sparsity_(trace(model, torch.zeros(1, 3)), reg=0.01, alpha=4.0)
    first, second = model[0].weight.detach(), model[2].weight.detach()
    importance = ((first.square().sum(1) + second.square().sum(0)) / 2).sqrt()
    gamma = 2 ** (4 * (importance.max() - importance) / (importance.max() - importance.min()))
    torch.testing.assert_close(model[0].weight.grad, 0.01 * gamma[:, None] * first)
    torch.testing.assert_close(model[2].weight.grad, 0.01 * gamma[None] * second)
    assert not model[0].bias.grad.any()
    assert not model[2].bias.grad.any()


def test_it_is_the_gradient_of_the_published_penalty():
    """grad = λ·γ_k·w is half the gradient of Σ_k γ_k·Σ_m ‖w_{m,k}‖² at constant γ."""
    model = perturbed(Residual())
    graph = trace(model, X)
    zero_gradients(model)
    group_sparsity_(graph, reg=1.0)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    # along each parameter the gradient has the weight's sign and at least its size where a group holds it
    for name in ("stem.0.weight", "stem.1.weight", "first.0.0.weight", "head.weight"):
        weight = model.get_parameter(name).detach()
        assert (found[name] * weight >= weight.square() * 0.999).all()


def test_the_callback_equals_the_function():
    one, other = perturbed(Residual()), perturbed(Residual())
    other.load_state_dict(one.state_dict())
    zero_gradients(one), zero_gradients(other)
    callback = GroupSparsity(X, reg=0.02)
    run = run_of(one)
    callback.on_fit_start(run)
    callback.on_gradients(run)
    group_sparsity_(trace(other, X), reg=0.02)
    for mine, theirs in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_slimming_pulls_norm_weights_only():
    model = zero_gradients(perturbed(Residual()))
    callback = GroupSparsity(X, reg=0.5, kind="bn")
    callback.on_fit_start(run_of(model))
    callback.on_gradients(run_of(model))
    torch.testing.assert_close(model.stem[1].weight.grad, 0.5 * model.stem[1].weight.detach().sign())
    assert not model.stem[0].weight.grad.any()


def test_growing_strengths_grow_most_for_the_least_important_and_survive_saving():
    model = perturbed(Residual())
    callback = GroupSparsity(X, reg=0.1, kind="growing", growth=0.05)
    callback.on_fit_start(run_of(model))
    for _ in range(3):
        callback.on_epoch_start(run_of(model))
    strengths = callback.state_dict()["strengths"]["stem.0.weight"]
    torch.testing.assert_close(strengths.max(), torch.tensor(0.1 + 3 * 0.05))
    torch.testing.assert_close(strengths.min(), torch.tensor(0.1))
    twin = GroupSparsity(X, kind="growing")
    twin.load_state_dict(callback.state_dict())
    torch.testing.assert_close(twin.strengths["stem.0.weight"], strengths)


def test_unknown_kinds_are_refused():
    with pytest.raises(Exception, match=r"'bn'.*'growing'"):
        GroupSparsity(X, kind="magic")  # type: ignore[arg-type]
