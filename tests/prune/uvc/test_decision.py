"""Decisions: from counts to places, to JSON and back, and what does not fit."""

import json
from dataclasses import replace

import pytest
import torch

from tests.prune.uvc.models import DECISION, DEPTH, HEADS, RAGGED, SPEC, small_vit
from torchard.prune.uvc import Counts, UVCDecision, measure_scores, resource
from torchard.prune.uvc.structure import parts_of


@pytest.mark.parametrize("decision", [DECISION, RAGGED, UVCDecision.dense(SPEC)])
def test_json_round_trips(decision):
    assert UVCDecision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


def test_counts_become_the_cheapest_places():
    scores = measure_scores(parts_of(small_vit()), SPEC)
    s, r = torch.tensor([[0.2, 2.0], [0.0, 0.0], [2.0, 1.5]]), torch.tensor([[1.0], [0.5], [0.0]])
    decision = Counts.of(s, r, torch.tensor([True, True, False]), HEADS).decision(scores, ragged=False)
    decision.check(SPEC)
    assert decision.heads[0] == (scores.heads[0].argmin().item(),)
    assert set(decision.units[0]) == set(scores.units[0].argsort()[:2].tolist())
    assert [len(places) for places in decision.dims[1]] == [1, 1, 1]
    assert decision.dims[1][2] == (scores.dims[1, 2].argmin().item(),)
    assert decision.skipped == (2,)
    assert decision.heads[2] == decision.units[2] == ()


@pytest.mark.parametrize("seed", range(3))
def test_the_resource_of_whole_numbers_is_the_cost_of_the_decision(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = measure_scores(parts_of(small_vit(seed)), SPEC)
    s = torch.stack(
        [torch.randint(0, n, (DEPTH,), generator=generator) for n in (HEADS, SPEC.hidden)], dim=1
    ).float()
    r = torch.randint(0, SPEC.head_width, (DEPTH, 1), generator=generator).float()
    keep = torch.tensor([True, False, True])
    decision = Counts.of(s, r, keep, HEADS).decision(scores, ragged=False)
    assert decision.macs(SPEC) / SPEC.macs == pytest.approx(
        resource(s, r, keep.float(), SPEC).item(), abs=1e-12
    )


def test_the_summary_tells_kinds_apart():
    summary = DECISION.summary(SPEC)
    assert summary["blocks"] == (2, 3)
    assert summary["heads"] == (5, 9)
    assert summary["dims"] == (5 * 4 - 4 - 3, 36)
    assert summary["units"] == (21 + 24, 72)
    assert summary["macs"] == (DECISION.macs(SPEC), SPEC.macs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ((0, 1, 2), (), ())}, "heads of block 0.*nothing"),
        ({"heads": ((3,), (), ())}, "heads of block 0.*0 to 2"),
        ({"units": ((), (-1,), ())}, "units of block 1"),
        ({"units": ((), ())}, "2 blocks|3 blocks"),
        ({"skipped": (0, 1, 2)}, "blocks.*nothing"),
        ({"skipped": (1, 1)}, "different"),
        ({"dims": (((0,), (), ()),) * 3, "heads": ((), (), ())}, "ragged"),
        ({"dims": (((), ()),) * 3}, "dims of 2 heads"),
        ({"dims": (((0, 1, 2, 3),) * 3,) * 3, "heads": ((), (), ())}, "nothing"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DECISION, **changes).check(SPEC)


@pytest.mark.parametrize(
    "data", [{}, {**DECISION.to_json(), "units": [["a"]]}, {**DECISION.to_json(), "heads": 3}], ids=str
)
def test_what_is_no_decision_is_refused(data):
    with pytest.raises(ValueError, match="no decision"):
        UVCDecision.from_json(data)
