"""The resource: what it counts, and where its gradient goes."""

import pytest
import torch

from tests.prune.uvc.models import DEPTH, HEADS, SPEC
from torchard.prune.uvc import ViTSpec, resource

DEIT_TINY = ViTSpec(
    depth=12,
    heads=3,
    head_width=64,
    hidden=768,
    width=192,
    tokens=197,
    stem_macs=196 * 192 * 768,
    head_macs=192 * 1000,
)
ONES = torch.ones(DEPTH)


def zeros(columns: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(DEPTH, 2), torch.zeros(DEPTH, columns)


@pytest.mark.parametrize("accounting", ["exact", "official"])
@pytest.mark.parametrize("columns", [1, HEADS])
def test_the_dense_model_uses_all_of_it(accounting, columns):
    assert resource(*zeros(columns), ONES, SPEC, accounting).item() == pytest.approx(1, abs=1e-12)


def test_deit_tiny_has_the_operations_of_the_official_log():
    assert 2 * (DEIT_TINY.macs - DEIT_TINY.head_macs) == pytest.approx(2.507e9, rel=2e-4)


@pytest.mark.parametrize("accounting", ["exact", "official"])
def test_it_is_linear_in_units_and_in_what_is_kept(accounting):
    s, r = zeros()
    values = []
    for units in (0, 4, 8):
        s[1, 1] = units
        values.append(resource(s, r, ONES, SPEC, accounting).item())
    assert values[0] - values[1] == pytest.approx(values[1] - values[2], abs=1e-12)
    values = [
        resource(s, r, torch.tensor([1.0, share, 1.0]), SPEC, accounting).item() for share in (0, 0.5, 1)
    ]
    assert values[1] - values[0] == pytest.approx(values[2] - values[1], abs=1e-12)


@pytest.mark.parametrize("units", [0.0, 0.3, 7.0, 23.0])
def test_a_unit_saves_the_same_everywhere_also_at_the_bounds(units):
    s, r = zeros()
    s[:, 1] = units
    s.requires_grad_()
    resource(s, r, ONES, SPEC).backward()
    expected = -2 * SPEC.tokens * SPEC.width / SPEC.macs
    torch.testing.assert_close(s.grad[:, 1], torch.full((DEPTH,), expected))


def test_a_removed_head_saves_nothing_by_being_narrower():
    s, r = zeros(HEADS)
    s[0, 0], surviving = 0.5, torch.ones(DEPTH, HEADS, dtype=torch.bool)
    surviving[0, 1] = False
    r.requires_grad_()
    resource(s, r, ONES, SPEC, surviving=surviving).backward()
    expected = -(2 * SPEC.tokens * SPEC.width + SPEC.tokens**2) / SPEC.macs
    assert r.grad[0].tolist() == pytest.approx([expected, 0, expected])


def test_tied_widths_save_once_for_every_surviving_head():
    s, r = zeros()
    s[0, 0] = 1
    r.requires_grad_()
    resource(s, r, ONES, SPEC).backward()
    each = -(2 * SPEC.tokens * SPEC.width + SPEC.tokens**2) / SPEC.macs
    assert r.grad[:, 0].tolist() == pytest.approx([2 * each, 3 * each, 3 * each])


def test_official_accounting_charges_qkv_by_heads_alone():
    s, r = zeros()
    r[0, 0] = 2
    exact, official = resource(s, r, ONES, SPEC), resource(s, r, ONES, SPEC, "official")
    saved = 2 * HEADS * (SPEC.tokens * SPEC.width + SPEC.tokens**2)
    assert (1 - official.item()) * (SPEC.macs - SPEC.head_macs) == pytest.approx(saved)
    assert (1 - exact.item()) * SPEC.macs == pytest.approx(saved + 2 * HEADS * SPEC.tokens * SPEC.width)


def test_without_survivors_named_removed_heads_are_refused():
    s, r = zeros(HEADS)
    s[0, 0] = 1
    with pytest.raises(ValueError, match="surviving"):
        resource(s, r, ONES, SPEC)
