"""Scores against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.prune.depgraph.networks import Residual, perturbed
from torchard.prune.depgraph import activation, fisher, hessian, random_scores, score, trace
from torchard.prune.depgraph.importance import CRITERIA, bn_scale, lamp_scores, normalise


def chain(width: int = 5) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def only_group(model: nn.Module, example: torch.Tensor | None = None):
    (group,) = trace(model, torch.zeros(1, 4) if example is None else example).groups()
    return group


def with_gradients(model: nn.Module) -> nn.Module:
    model(torch.randn(6, 4)).square().sum().backward()
    return model


def test_l1_and_l2_are_sums_over_both_sides():
    model = chain()
    first, second = model[0].weight.detach(), model[2].weight.detach()
    for name, size in (("l1", torch.abs), ("l2", torch.square)):
        expected = (size(first).sum(1) + size(second).sum(0)) / 2
        torch.testing.assert_close(score(only_group(model), name, normalize=None), expected)


def test_biases_count_only_when_asked():
    model = chain()
    first, second, bias = (t.detach().square() for t in (model[0].weight, model[2].weight, model[0].bias))
    expected = (first.sum(1) + second.sum(0) + bias) / 3
    torch.testing.assert_close(score(only_group(model), normalize=None, bias=True), expected)


def test_taylor_is_the_first_order_change_of_the_loss():
    model = with_gradients(chain())
    parts = [
        (model[0].weight * model[0].weight.grad).sum(1).abs(),
        (model[2].weight * model[2].weight.grad).sum(0).abs(),
    ]
    torch.testing.assert_close(
        score(only_group(model), "taylor", normalize=None, reduce="sum"), sum(parts).detach()
    )
    elements = [(model[0].weight * model[0].weight.grad).abs().sum(1)]
    elements += [(model[2].weight * model[2].weight.grad).abs().sum(0)]
    found = score(only_group(model), "taylor_per_element", normalize=None, reduce="sum")
    torch.testing.assert_close(found, sum(elements).detach())


@pytest.mark.parametrize("name", ["taylor", "taylor_per_element"])
def test_missing_gradients_are_told(name):
    with pytest.raises(ValueError, match=r"0\.weight has no gradient"):
        score(only_group(chain()), name)


def test_hessian_is_the_mean_over_samples_and_puts_gradients_back():
    model = with_gradients(chain())
    held = model[0].weight.grad.clone()
    samples = torch.randn(7, 4)
    criterion = hessian(model, lambda m, x: m(x).square().sum(), samples)
    squares = []
    for sample in samples:
        (gradient,) = torch.autograd.grad(model(sample).square().sum(), [model[0].weight])
        squares.append(gradient.square())
    expected = (model[0].weight.detach().square() * torch.stack(squares).mean(0)).sum(1)
    found = score(only_group(model), criterion, normalize=None, reduce="first")
    torch.testing.assert_close(found, expected)
    assert torch.equal(model[0].weight.grad, held)
    with pytest.raises(ValueError, match="at least one"):
        hessian(model, lambda m, x: m(x).sum(), [])


def test_fisher_is_the_mean_square_of_each_sample_s_taylor_score_and_puts_gradients_back():
    model = with_gradients(chain())
    model[2].bias.requires_grad_(False)
    held = model[0].weight.grad.clone()
    samples = torch.randn(7, 4)

    def loss(m, x):
        return m(x).square().sum()

    graph = trace(model, torch.zeros(2, 4))
    (group,) = graph.groups()
    criterion = fisher(graph, loss, samples)
    expected = {}
    for layer, dim in ((0, 1), (2, 0)):
        weight = model[layer].weight
        terms = [
            torch.autograd.grad(loss(model, sample), [weight])[0].mul(weight.detach()).sum(dim).square()
            for sample in samples
        ]
        expected[layer] = torch.stack(terms).mean(0)
    members = {member.name: member for member in group.members}
    torch.testing.assert_close(criterion(members["0.weight"]), expected[0])
    torch.testing.assert_close(criterion(members["2.weight"]), expected[2])
    torch.testing.assert_close(
        score(group, criterion, normalize=None, reduce="sum"), expected[0] + expected[2]
    )
    assert torch.equal(model[0].weight.grad, held)
    with pytest.raises(ValueError, match="at least one"):
        fisher(graph, loss, [])


def test_fisher_tells_apart_what_cancels_in_taylor():
    """Two samples that pull a unit in opposite ways: of no account to one, but not to the other."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[1].weight.fill_(1.0)
    graph = trace(model, torch.zeros(1, 2))
    (group,) = graph.groups()
    samples = [torch.tensor([[1.0, 0.1]]), torch.tensor([[-1.0, 0.1]])]
    for sample in samples:
        model(sample).sum().backward()
    assert score(group, "taylor", normalize=None).argmin() == 0
    found = score(group, fisher(graph, lambda m, x: m(x).sum(), samples), normalize=None)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.01]))


def test_fpgm_is_the_distance_to_all_others():
    model = chain()
    weight = model[0].weight.detach()
    expected = torch.stack([(weight - row).norm(dim=1).sum() for row in weight])
    torch.testing.assert_close(score(only_group(model), "fpgm", normalize=None, reduce="first"), expected)


def test_bn_scale_reads_norm_weights_only():
    model = perturbed(Residual())
    group = trace(model, torch.zeros(1, 3, 6, 6)).groups()[0]
    torch.testing.assert_close(score(group, bn_scale, normalize=None), model.stem[1].weight.detach().abs())
    with pytest.raises(ValueError, match="abstains"):
        score(only_group(chain()), bn_scale)


def test_activation_is_the_mean_magnitude_of_outputs():
    model, batches = chain().train(), [torch.randn(3, 4), torch.randn(5, 4)]
    criterion = activation(model, batches)
    expected = model[0](torch.cat(batches)).detach().abs().mean(0)
    torch.testing.assert_close(score(only_group(model), criterion, normalize=None), expected)
    assert model.training


def test_units_repeated_by_a_grouped_layer_are_averaged():
    layers = [nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 6, 1, groups=3), nn.Conv2d(6, 2, 1)]
    graph = trace(nn.Sequential(*layers), torch.zeros(1, 3, 4, 4))
    group = next(g for g in graph.groups() if g.id.startswith("2.weight:1") or g.size == 4)
    weight = layers[2].weight.detach().square()  # (6, 4, 1, 1): its input side holds each unit once
    first = layers[0].weight.detach().square().sum((1, 2, 3)).view(3, 4).mean(0)
    expected = (first + weight.sum((0, 2, 3))) / 2
    torch.testing.assert_close(score(group, normalize=None), expected)


def test_depthwise_kernels_and_bare_parameters_count():
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    group = only_group(layers, torch.zeros(1, 3, 6, 6))
    assert [member.role for member in group.members if member.role not in ("bias",)] == [
        "out",
        "depthwise",
        "in",
    ]


def test_lamp_divides_by_all_that_is_not_smaller():
    expected = torch.tensor([0.1, 2 / 9, 3 / 7, 1.0])
    torch.testing.assert_close(lamp_scores(torch.tensor([1.0, 2.0, 3.0, 4.0])), expected)
    torch.testing.assert_close(lamp_scores(torch.tensor([4.0, 1.0, 3.0, 2.0])), expected[[3, 0, 2, 1]])
    assert lamp_scores(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("how", ["mean", "max", "sum", "standard", "gaussian", "lamp"])
def test_normalising_a_constant_group_divides_by_nothing(how):
    assert torch.isfinite(normalise(torch.zeros(4), how)).all()
    assert torch.isfinite(normalise(torch.ones(4), how)).all()
    assert torch.isfinite(normalise(torch.ones(1), how)).all()


@given(scale=st.floats(0.01, 100))
def test_normalised_scores_do_not_know_the_scale(scale):
    scores = torch.tensor([1.0, 3.0, 2.0])
    for how in ("mean", "max", "sum", "standard", "gaussian", "lamp"):
        torch.testing.assert_close(
            normalise(scores * scale, how), normalise(scores, how), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "prod", "first"])
@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"bn_scale"}))
def test_permuting_units_permutes_scores(name, reduce):
    model = with_gradients(chain())
    before = score(only_group(model), name, reduce=reduce)
    order = torch.tensor([3, 0, 4, 1, 2])
    twin = chain()
    with torch.no_grad():
        for tensor, other, dim in (
            (twin[0].weight, model[0].weight, 0),
            (twin[0].bias, model[0].bias, 0),
            (twin[2].weight, model[2].weight, 1),
        ):
            tensor.copy_(other.index_select(dim, order))
            tensor.grad = other.grad.index_select(dim, order)
    torch.testing.assert_close(score(only_group(twin), name, reduce=reduce), before[order])


def test_scores_that_are_not_finite_name_the_parameter():
    model = chain()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"2\.weight are not finite"):
        score(only_group(model))


def test_random_scores_follow_their_seed():
    group = only_group(chain())
    assert torch.equal(score(group, random_scores(1)), score(group, random_scores(1)))
    assert not torch.equal(score(group, random_scores(1)), score(group, random_scores(2)))


def test_half_precision_does_not_overflow():
    model = chain().half()
    with torch.no_grad():
        model[0].weight.fill_(400.0)
    graph = trace(model, torch.zeros(1, 4, dtype=torch.float16))
    assert torch.isfinite(score(graph.groups()[0])).all()
