"""Bottom sums with their marginal costs, the proximal step, and the scores themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prune.uvc.models import DEPTH, HEAD_WIDTH, HEADS, HIDDEN, SPEC, small_vit
from torchard.prune.uvc import Scores, bottom_k_sum, measure_scores, prox_
from torchard.prune.uvc.structure import parts_of


@pytest.mark.parametrize(
    ("k", "value", "marginal"), [(1.2, 0.4, 0.4), (0.0, 0.0, 0.1), (1.0, 0.1, 0.3), (3.0, 0.8, 0.4)]
)
def test_the_sum_of_the_cheapest_has_the_next_one_for_its_gradient(k, value, marginal):
    count = torch.tensor(k, requires_grad=True)
    found = bottom_k_sum(torch.tensor([0.4, 0.1, 0.3]), count)
    assert found.item() == pytest.approx(value)
    (3 * found).backward()
    assert count.grad.item() == pytest.approx(3 * marginal)


def test_the_gradient_to_the_scores_marks_those_that_were_summed():
    scores = torch.tensor([[0.4, 0.1, 0.3], [2.0, 2.0, 1.0]], requires_grad=True)
    bottom_k_sum(scores, torch.tensor([2.0, 2.0])).sum().backward()
    assert scores.grad.tolist() == [[0, 1, 1], [1, 0, 1]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=8), st.floats(0, 8, width=32))
def test_bottom_sums_equal_brute_force(values, k):
    k = min(k, len(values))
    expected = sum(sorted(values)[: int(-(-k // 1))])
    found = bottom_k_sum(torch.tensor(values, dtype=torch.float64), torch.tensor(k, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_the_proximal_step_shrinks_the_chosen_columns_only():
    weight, before = torch.randn(4, 5), None
    before = weight.clone()
    prox_(weight, torch.tensor([1, 3]), 0.1, 2.0)
    factor = 1 / (1 + 2 * 0.1 * 2.0)
    torch.testing.assert_close(weight[:, [1, 3]], before[:, [1, 3]] * factor)
    assert torch.equal(weight[:, [0, 2, 4]], before[:, [0, 2, 4]])


def test_a_column_shrunk_twice_gets_the_product_and_no_price_changes_nothing():
    weight = torch.randn(4, 5)
    before = weight.clone()
    prox_(weight, torch.tensor([0, 1]), 0.1, 0.0)
    assert torch.equal(weight, before)
    prox_(weight, torch.tensor([0, 1]), 0.1, 1.0)
    prox_(weight, torch.tensor([1, 2]), 0.1, 3.0)
    torch.testing.assert_close(weight[:, 1], before[:, 1] / 1.2 / 1.6)


def test_the_proximal_step_minimises_what_it_should():
    """argmin over w of lr·y·w² + (w − v)²/2 is v / (1 + 2·lr·y)."""
    lr, price, start = 0.3, 0.7, 1.9
    weight = torch.full((1, 1), start)
    prox_(weight, torch.tensor([0]), lr, price)
    grid = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    best = grid[(lr * price * grid**2 + (grid - start) ** 2 / 2).argmin()]
    assert weight.item() == pytest.approx(best.item(), abs=1e-4)


def test_scores_are_the_squared_norms_of_output_columns():
    model = small_vit()
    scores = measure_scores(parts_of(model), SPEC)
    assert scores.dims.shape == (DEPTH, HEADS, HEAD_WIDTH)
    assert scores.units.shape == (DEPTH, HIDDEN)
    column = model.blocks[1].attn.proj.weight[:, 2 * HEAD_WIDTH + 3].double()
    assert scores.dims[1, 2, 3].item() == pytest.approx(column.square().sum().item())
    head = model.blocks[2].attn.proj.weight[:, HEAD_WIDTH : 2 * HEAD_WIDTH].double()
    assert scores.heads[2, 1].item() == pytest.approx(head.square().sum().item())
    assert scores.units[0, 7].item() == pytest.approx(
        model.blocks[0].mlp.fc2.weight[:, 7].square().sum().item()
    )


def test_tied_sums_average_what_each_head_would_lose():
    generator = torch.Generator().manual_seed(0)
    scores = Scores(
        torch.rand(2, 3, 4, generator=generator, dtype=torch.float64),
        torch.rand(2, 5, generator=generator, dtype=torch.float64),
    )
    s, tied, free = torch.zeros(2, 2), torch.tensor([[2.0], [0.0]]), torch.tensor([[2.0] * 3, [0.0] * 3])
    torch.testing.assert_close(scores.sums(s, tied)[1][:, 0], scores.sums(s, free)[1].mean(dim=1))


def test_the_cheapest_heads_do_not_survive():
    scores = Scores(torch.tensor([[[3.0], [1.0], [2.0]]]), torch.ones(1, 1))
    assert scores.surviving(torch.tensor([1.5])).tolist() == [[True, False, False]]
