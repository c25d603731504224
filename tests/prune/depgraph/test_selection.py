"""How many units go, and which."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.prune.depgraph.networks import Residual, perturbed, plain
from torchard.core.budget import count_macs, count_params, parse_macs
from torchard.prune.depgraph import (
    StaleSizeError,
    Target,
    UnprunableError,
    UnreachableTargetError,
    apply,
    plan,
    score,
    trace,
)

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph():
    return trace(perturbed(Residual()), X)


def test_resnet18_at_half_has_half_the_widths():
    model = timm.create_model("resnet18", num_classes=3)
    apply(model, plan(trace(model, torch.zeros(1, 3, 32, 32)), ratio=0.5))
    assert [model.get_submodule(f"layer{i}.0.conv2").out_channels for i in (1, 2, 3, 4)] == [32, 64, 128, 256]
    assert model.get_classifier().in_features == 256
    assert model.get_classifier().out_features == 3


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_interior_macs_of_a_plain_stack_fall_with_the_square(ratio):
    model = plain()
    apply(model, plan(trace(model, X), ratio=ratio))
    width = round(16 * (1 - ratio))
    assert model[2].weight.shape == (width, width, 3, 3)
    assert count_macs(model[2], torch.zeros(1, width, 6, 6)) == (1 - ratio) ** 2 * 16 * 16 * 9 * 36


@pytest.mark.parametrize(
    "arguments",
    [
        {"ratio": 0.3},
        {"ratio": 0.4, "scope": "global"},
        {"ratio": 0.4, "scope": "isomorphic", "criterion": "l1"},
        {"target": Target(macs=0.5)},
        {"target": Target(params="0.6x")},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_predicted_costs_are_those_of_the_cut_model(name, arguments):
    model = timm.create_model(name, num_classes=3)
    size = 160 if name == "test_vit" else 64
    example = torch.zeros(1, 3, size, size)
    chosen = plan(trace(model, example), **arguments)
    assert chosen.macs[0] == count_macs(model, example)
    apply(model, chosen)
    assert chosen.macs[1] == count_macs(model, example)
    assert chosen.params[1] == count_params(model)


@given(ratio=st.floats(0, 0.99), size=st.integers(2, 40))
def test_exactly_the_rounded_share_goes(ratio, size):
    model = nn.Sequential(nn.Linear(3, size), nn.ReLU(), nn.Linear(size, 2))
    chosen = plan(trace(model, torch.zeros(1, 3)), ratio=ratio, max_ratio=0.99)
    before, after = chosen.widths.get("0.weight", (size, size))
    assert before - after == size - max(round(size * (1 - ratio)), 1)


def test_the_lowest_scores_go_and_ties_go_by_index():
    model = nn.Sequential(nn.Linear(1, 6, bias=False), nn.Linear(6, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0], [2.0], [0.5], [1.0], [1.0]]))
        model[1].weight.fill_(1.0)
    assert plan(trace(model, torch.zeros(1, 1)), ratio=0.5).removed == {"0.weight": [1, 3, 4]}


def test_global_ranking_takes_from_the_weaker_group(graph):
    weak = copy.deepcopy(graph.model)
    with torch.no_grad():
        weak.first[0][0].weight *= 0.01
        weak.first[0][1].weight *= 0.01
        weak.first[1].weight *= 0.01
    chosen = plan(trace(weak, X), ratio=0.4, scope="global", normalize=None)
    assert chosen.widths["first.0.0.weight"][1] < 16 * 0.4
    assert sum(a - b for a, b in chosen.widths.values()) == round(0.4 * 40)


def test_isomorphic_groups_share_a_threshold_and_others_do_not():
    model = plain()
    with torch.no_grad():
        model[2].weight *= 10
        model[2].bias *= 10
    chosen = plan(trace(model, X), ratio=0.5, scope="isomorphic", normalize=None)
    widths = {name: after for name, (_, after) in chosen.widths.items()}
    assert sum(16 - w for w in widths.values()) == 32
    assert len(set(widths.values())) > 1


def pooled() -> nn.Sequential:
    """One convolution over 36 places, then a wide linear layer: few MACs per parameter late, many early."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 16, bias=False),
        nn.ReLU(),
        nn.Linear(16, 1, bias=False),
    )


COSTS = {"macs": lambda a, b: 36 * 3 * a + a * b + b, "params": lambda a, b: 3 * a + a * b + b}


def greedy(scores: dict[str, list[float]], cost, count: int) -> list[int]:
    """Remove ``count`` units, each time the one of least score per saving; return the widths left."""
    left = {name: sorted(values) for name, values in scores.items()}
    for _ in range(count):
        a, b = (len(values) for values in left.values())
        savings = (cost(a, b) - cost(a - 1, b), cost(a, b) - cost(a, b - 1))
        candidates = [
            (values[0] / saving, name)
            for (name, values), saving in zip(left.items(), savings)
            if len(values) > 1 and saving
        ]
        left[min(candidates)[1]].pop(0)
    return [len(values) for values in left.values()]


@pytest.fixture(scope="module")
def pooled_graph():
    return trace(pooled(), X[:1])


def per_size(convolution: Tensor, linear: Tensor):
    """A criterion that hands out the given scores by the size of the group."""
    return lambda member: convolution if member.axis.size == 4 else linear


@pytest.mark.parametrize("per", ["macs", "params"])
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(1, 18))
def test_units_go_in_the_order_of_score_per_saving(pooled_graph, per, seed, count):
    scores = torch.rand(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    criterion = per_size(scores[:4], scores[4:])
    chosen = plan(
        pooled_graph,
        ratio=count / 20,
        scope="global",
        per=per,
        criterion=criterion,
        normalize=None,
        max_ratio=0.99,
    )
    widths = [chosen.widths.get(g.id, (g.size, g.size))[1] for g in pooled_graph.groups()]
    expected = greedy({"a": scores[:4].tolist(), "b": scores[4:].tolist()}, COSTS[per], count)
    assert sum(widths) == sum(expected) == 20 - count
    # Savings are looked up again after a tenth, two units: of two neighbours in the order one may be early.
    assert abs(widths[0] - expected[0]) <= 1


def test_a_dearer_unit_goes_first_though_it_scores_more(pooled_graph):
    """A channel of the convolution scores five times as much, but saves 124 MACs where the others save 5."""
    criterion = per_size(torch.full((4,), 5.0), torch.ones(16))
    arguments = {"ratio": 0.15, "scope": "global", "criterion": criterion, "normalize": None}
    convolution, linear = (group.id for group in pooled_graph.groups())
    assert plan(pooled_graph, **arguments).widths == {linear: (16, 13)}
    assert plan(pooled_graph, **arguments, per="macs").widths == {convolution: (4, 1)}
    # 19 parameters against 5: less than five times as much.
    assert plan(pooled_graph, **arguments, per="params").widths == {linear: (16, 13)}


def test_a_share_of_cost_gives_up_less_importance_for_the_same_limit():
    model = timm.create_model("test_resnet", num_classes=3)
    graph = trace(model, torch.zeros(1, 3, 64, 64))
    lost = {}
    for per in (None, "macs"):
        chosen = plan(graph, target=Target(macs=0.5), scope="global", per=per)
        assert chosen.macs[1] <= 0.5 * chosen.macs[0]
        lost[per] = sum(
            score(group)[chosen.removed[group.id]].sum()
            for group in graph.groups()
            if group.id in chosen.removed
        )
    assert lost["macs"] < lost[None]


def test_kept_widths_are_rounded_up(graph):
    chosen = plan(graph, ratio=0.6, round_to=4)
    assert all(after % 4 == 0 for _, after in chosen.widths.values())
    assert chosen.widths["first.0.0.weight"] == (16, 8)


def test_bounds_hold(graph):
    assert all(after >= 5 for _, after in plan(graph, ratio=0.9, min_units=5).widths.values())
    assert all(b - a <= 0.5 * b for b, a in plan(graph, ratio=0.9, max_ratio=0.5).widths.values())


def test_single_layers_have_ratios_of_their_own(graph):
    chosen = plan(graph, ratio=0.0, ratios={"stem": 0.5})
    assert chosen.widths == {"stem.0.weight": (8, 4)}
    with pytest.raises(UnprunableError, match="model output"):
        plan(graph, ratio=0.5, ratios={"head": 0.5})
    with pytest.raises(ValueError, match="no parameter"):
        plan(graph, ratio=0.5, ratios={"missing": 0.5})


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_targets_are_met_from_closely_below(share):
    model = timm.create_model("test_resnet", num_classes=3)
    graph = trace(model, torch.zeros(1, 3, 64, 64))
    for target in (Target(macs=share), parse_macs(f"{share}x")):
        before, after = plan(graph, target=target).macs
        assert 0.97 * share < after / before <= share


def test_two_limits_hold_together(graph):
    chosen = plan(graph, target=Target(macs=0.6, params=0.4))
    assert chosen.macs[1] <= 0.6 * chosen.macs[0]
    assert chosen.params[1] <= 0.4 * chosen.params[0]


def test_a_measured_latency_is_met():
    model = plain()
    graph = trace(model, X)
    widths: list[int] = []

    def milliseconds(small: nn.Module) -> float:
        widths.append(small[2].out_channels)
        return float(small[2].out_channels)

    chosen = plan(graph, target=Target(latency=9.0, measure=milliseconds))
    assert chosen.widths["2.weight"] == (16, 9)
    assert model[2].out_channels == 16
    with pytest.raises(ValueError, match="needs `measure`"):
        plan(graph, target=Target(latency=9.0))


def test_what_cannot_be_reached_says_how_near_it_gets(graph):
    with pytest.raises(UnreachableTargetError, match=r"the least is macs 0\.0\d+x") as caught:
        plan(graph, target=Target(macs=0.0001))
    assert caught.value.nearest.macs[1] < 0.1 * caught.value.nearest.macs[0]


def test_a_target_that_holds_already_changes_nothing(graph):
    assert plan(graph, target=Target(macs=1.0)).removed == {}


class Literal(nn.Module):
    """Writes a size as a plain number into its code, and another as a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 12), nn.Linear(12, 16), nn.Linear(16, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs))
        wide = self.second(hidden.view(-1, hidden.shape[1]))
        return self.head(wide.view(-1, 4, 4).flatten(1))


def test_a_size_written_as_a_number_freezes_or_is_told():
    graph = trace(Literal(), torch.zeros(2, 3))
    assert plan(graph, ratio=0.5).widths == {"first.weight": (12, 6)}
    with pytest.raises(StaleSizeError, match=r"view is given the size 4 .*group second.weight"):
        plan(graph, ratio=0.5, on_stale="raise")
    plan(graph, ratio=0.5, on_stale="raise", ignore=["second"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.0}, "`ratio=1.0` must be at least 0"),
        ({"ratio": -0.1}, "must be at least 0"),
        ({"ratio": float("nan")}, "must be at least 0"),
        ({}, "either `ratio` or `target`"),
        ({"ratio": 0.5, "target": Target(macs=0.5)}, "either `ratio` or `target`"),
        ({"ratio": 0.5, "max_ratio": 1.0}, "`max_ratio=1.0`"),
        ({"ratio": 0.5, "min_units": 0}, "`min_units=0`"),
        ({"ratio": 0.5, "round_to": 0}, "`round_to=0`"),
        ({"ratio": 0.5, "ratios": {"stem": 2.0}}, "ratios"),
        ({"ratio": 0.5, "per": "macs"}, "give `scope='global'`"),
        ({"ratio": 0.5, "per": "macs", "scope": "global", "normalize": "gaussian"}, "below zero"),
        ({"target": Target()}, "names no limit"),
        ({"target": Target(macs=-1.0)}, "must be positive"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(graph, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(graph, **arguments)


def test_heads_choose_between_dims_and_heads():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 2, 1))
    graph = trace(model, X)
    shapes = {}
    for heads in ("dims", "heads", "none"):
        small = apply(model, plan(graph, ratio=0.5, heads=heads, max_ratio=0.7), inplace=False).model
        shapes[heads] = (small[2].groups, tuple(small[2].weight.shape[:2]))
    assert shapes["dims"] == (3, (6, 2))
    assert shapes["heads"][0] == 2
    assert shapes["none"] == (3, (12, 4))
