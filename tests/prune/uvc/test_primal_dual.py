"""The variables and their prices, step by step."""

import pytest
import torch

from tests.prune.uvc.models import DEPTH, HEAD_WIDTH, HEADS, HIDDEN, SPEC, small_vit
from torchard.prune.uvc import Rates, Scores, Variables, measure_scores
from torchard.prune.uvc.primal_dual import KINDS
from torchard.prune.uvc.structure import parts_of

ONES = torch.ones(DEPTH)
UPPER = (HEADS - 1, HIDDEN - 1)


@pytest.fixture
def scores() -> Scores:
    return measure_scores(parts_of(small_vit()), SPEC)


def stepped(variables: Variables, scores: Scores, rates: Rates) -> None:
    variables.primal_step(*variables.primal_gradients(scores, ONES, "exact"), rates)


def gradient_by_hand(variables: Variables, scores: Scores) -> torch.Tensor:
    """y times the next cheapest score, and z times what one more saves."""
    k = variables.s.ceil().long()
    heads = scores.heads.sort(dim=1).values.gather(1, k[:, :1])[:, 0]
    units = scores.units.sort(dim=1).values.gather(1, k[:, 1:])[:, 0]
    tokens, width = SPEC.tokens, SPEC.width
    head = -(4 * tokens * width + 2 * tokens**2) * HEAD_WIDTH / SPEC.macs
    unit = -2 * tokens * width / SPEC.macs
    marginal = variables.y.double() * torch.stack([heads, units], dim=1)
    return marginal + variables.z * torch.tensor([head, unit], dtype=torch.float64)


@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_are_marginal_costs_and_savings(scores, ragged):
    variables = Variables(SPEC, KINDS, ragged=ragged)
    variables.s = torch.tensor([[0.0, 0.0], [1.4, 3.2], [0.3, 7.0]])
    variables.y, variables.z = torch.rand(DEPTH, 2), 3.0
    by_s, by_r = variables.primal_gradients(scores, ONES, "exact")
    torch.testing.assert_close(by_s.double(), gradient_by_hand(variables, scores), rtol=1e-5, atol=1e-8)
    removed = scores.surviving(variables.s[:, 0]).logical_not()
    if ragged:
        cheapest = scores.dims.min(dim=2).values
        expected = variables.p.double() * cheapest
        torch.testing.assert_close(by_r.double()[removed], expected[removed], rtol=1e-5, atol=1e-9)
        assert (by_r[~removed] < expected[~removed]).all()


@pytest.mark.parametrize("ragged", [False, True])
def test_without_prices_nothing_moves(scores, ragged):
    variables = Variables(SPEC, KINDS, ragged=ragged, priced=False)
    for _ in range(3):
        stepped(variables, scores, Rates())
    assert not variables.s.any()
    assert not variables.r.any()


def test_a_price_on_the_budget_moves_everything_off_its_bound(scores):
    """Where a clamp inside R would leave the gradient zero, and the variables at zero for ever."""
    variables = Variables(SPEC, KINDS, ragged=False, priced=False)
    variables.z = 1.0
    stepped(variables, scores, Rates())
    assert (variables.s > 0).all()
    assert (variables.r > 0).all()


def test_at_a_bound_outward_gradients_do_nothing(scores):
    variables = Variables(SPEC, KINDS, ragged=False)
    variables.y, variables.z = torch.ones(DEPTH, 2), 0.0
    stepped(variables, scores, Rates())
    assert not variables.s.any()
    variables.s = torch.tensor([[UPPER[0], UPPER[1]]] * DEPTH, dtype=torch.float32)
    variables.y, variables.z = torch.zeros(DEPTH, 2), 1e9
    stepped(variables, scores, Rates())
    assert variables.s.tolist() == [list(map(float, UPPER))] * DEPTH


def test_what_leads_over_a_bound_does_not_slow_the_others_down():
    """Gradients are clipped by their largest entry: one that cannot be followed must not count."""
    variables = Variables(SPEC, KINDS, ragged=False)
    by_s, by_r = torch.zeros(DEPTH, 2), torch.zeros(DEPTH, 1)
    by_s[0], by_s[1], by_r[0], by_r[1] = 100.0, -0.5, 100.0, -0.5
    variables.primal_step(by_s, by_r, Rates(heads=1.0, units=1.0, dims=1.0))
    assert variables.s.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]
    assert variables.r[:, 0].tolist() == [0, 0.5, 0]


def test_steps_are_at_most_the_rate_and_never_take_the_last(scores):
    variables = Variables(SPEC, KINDS, ragged=False)
    variables.z = 1e9
    before = variables.s.clone()
    stepped(variables, scores, Rates(heads=0.5, units=0.25, dims=0.125))
    assert (variables.s - before).amax(dim=0).tolist() == [0.5, 0.25]
    assert variables.r.max().item() == 0.125
    for _ in range(200):
        stepped(variables, scores, Rates(heads=0.5, units=0.5, dims=0.5))
    assert variables.s.ceil().tolist() == [list(map(float, UPPER))] * DEPTH
    assert variables.r.max().item() == HEAD_WIDTH - 1


def test_relative_rates_move_every_kind_by_the_same_share(scores):
    variables = Variables(SPEC, KINDS, ragged=False, priced=False)
    variables.z = 1e9
    stepped(variables, scores, Rates(heads=0.01, units=0.01, dims=0.01, relative=True))
    torch.testing.assert_close(variables.s[0], 0.01 * torch.tensor([HEADS, HIDDEN], dtype=torch.float32))
    torch.testing.assert_close(variables.r, torch.full((DEPTH, 1), 0.01 * HEAD_WIDTH))


def test_kinds_that_may_not_go_stay(scores):
    variables = Variables(SPEC, ("mlp",), ragged=False)
    variables.z = 10.0
    stepped(variables, scores, Rates())
    assert not variables.s[:, 0].any()
    assert not variables.r.any()
    assert variables.s[:, 1].all()


def test_prices_follow_what_is_violated_and_are_never_negative(scores):
    variables = Variables(SPEC, KINDS, ragged=False)
    variables.s[:, 1] = 2
    sums = scores.units.sort(dim=1).values[:, :2].sum(dim=1)
    before = variables.y.clone()
    variables.dual_step(scores, 0.9, 0.5, Rates())
    torch.testing.assert_close(variables.y[:, 1].double() - before[:, 1], 1e-4 * sums, rtol=1e-2, atol=1e-7)
    assert variables.y[:, 0].tolist() == before[:, 0].tolist()
    assert variables.z == pytest.approx(1e-3 + 0.4)
    variables.dual_step(scores, 0.4, 0.5, Rates())
    assert variables.z == pytest.approx(1e-3 + 0.3)
    variables.dual_step(scores, 0.0, 1.0, Rates())
    assert variables.z == 0


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 1), (0.19, 1), (0.21, 5), (0.5, 9), (0.79, 13), (0.99, 17), (1.0, 17)]
)
def test_the_budgets_price_rises_faster_in_five_equal_parts(scores, progress, rate):
    variables = Variables(SPEC, KINDS, ragged=False, priced=False)
    variables.dual_step(scores, 0.6, 0.5, Rates(), progress=progress)
    assert variables.z == pytest.approx(0.1 * rate)


def test_what_is_violated_is_a_share_of_all(scores):
    variables = Variables(SPEC, KINDS, ragged=False)
    assert variables.violation(scores) == 0
    variables.s[1, 1] = 1
    assert variables.violation(scores) == pytest.approx(scores.units[1].min().item() / scores.total)


def test_state_survives(scores):
    one, other = Variables(SPEC, KINDS, ragged=True), Variables(SPEC, KINDS, ragged=True)
    one.z = 5.0
    stepped(one, scores, Rates())
    other.load_state_dict(one.state_dict())
    stepped(one, scores, Rates()), stepped(other, scores, Rates())
    assert torch.equal(one.s, other.s)
    assert torch.equal(one.r, other.r)


@pytest.mark.parametrize("changes", [{"heads": -1.0}, {"gate_interval": 0}, {"z": ()}, {"z": (-1.0,)}])
def test_rates_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Rates(**changes)
