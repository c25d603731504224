"""The budget is met whatever the search left; what is given back is worth its MACs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prune.uvc.models import DEPTH, HEAD_WIDTH, HEADS, HIDDEN, SPEC
from torchard.prune.uvc import Counts, Scores, project
from torchard.prune.uvc.primal_dual import KINDS
from torchard.prune.uvc.projection import floor_macs


def some_scores(seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        torch.rand(DEPTH, HEADS, HEAD_WIDTH, generator=generator, dtype=torch.float64),
        torch.rand(DEPTH, HIDDEN, generator=generator, dtype=torch.float64),
    )


def nothing_removed() -> Counts:
    zeros = torch.zeros(DEPTH, dtype=torch.long)
    keep = torch.ones(DEPTH, dtype=torch.bool)
    return Counts(zeros, torch.zeros(DEPTH, HEADS, dtype=torch.long), zeros.clone(), keep)


@settings(max_examples=60, deadline=None)
@given(
    share=st.floats(floor_macs(SPEC, KINDS) / SPEC.macs, 1),
    ragged=st.booleans(),
    seed=st.integers(0, 5),
    start=st.booleans(),
)
def test_every_budget_above_the_floor_is_met_and_used(share, ragged, seed, start):
    counts, scores = nothing_removed(), some_scores(seed)
    if start:
        counts.units[:] = HIDDEN - 1
        counts.heads[1] = 1
    target = share * SPEC.macs
    found = project(counts, scores, SPEC, target, kinds=KINDS, ragged=ragged)
    decision = found.decision(scores, ragged=ragged)
    decision.check(SPEC)
    assert decision.macs(SPEC) <= target
    # What is left over is not enough for another unit, or nothing is left to give back.
    unit = 2 * SPEC.tokens * SPEC.width
    full = all(not decision.units[n] for n in range(DEPTH) if n not in decision.skipped)
    assert target - decision.macs(SPEC) < unit or full


def test_the_cheapest_per_operation_goes_first():
    scores = some_scores()
    scores.units[1, 7] = 1e-9
    target = SPEC.macs - 1
    decision = project(nothing_removed(), scores, SPEC, target, kinds=KINDS).decision(scores, ragged=False)
    assert decision.units == ((), (7,), ())
    assert not any(decision.heads)


def test_what_is_within_the_budget_and_worthless_stays_removed():
    scores, counts = some_scores(), nothing_removed()
    scores.units[0, :3] = 1e-12
    counts.units[0] = 4  # these three and the next
    found = project(counts, scores, SPEC, SPEC.macs, kinds=KINDS)
    assert found.units.tolist() == [3, 0, 0]


def test_only_what_may_go_goes():
    scores = some_scores()
    found = project(nothing_removed(), scores, SPEC, 0.6 * SPEC.macs, kinds=("mlp",))
    assert not found.heads.any()
    assert not found.dims.any()
    assert found.keep.all()
    with pytest.raises(ValueError, match="no decision meets the budget"):
        project(nothing_removed(), scores, SPEC, 0.2 * SPEC.macs, kinds=("mlp",))


def test_blocks_go_last():
    scores = some_scores()
    without_blocks = floor_macs(SPEC, ("heads", "dims", "mlp"))
    assert project(nothing_removed(), scores, SPEC, without_blocks, kinds=KINDS).keep.all()
    assert project(nothing_removed(), scores, SPEC, without_blocks - 1, kinds=KINDS).keep.sum() == DEPTH - 1


def test_a_skipped_block_stays_skipped():
    counts = nothing_removed()
    counts.keep[2] = False
    found = project(counts, some_scores(), SPEC, SPEC.macs, kinds=KINDS)
    assert found.keep.tolist() == [True, True, False]
