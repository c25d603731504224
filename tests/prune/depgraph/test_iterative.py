"""Several steps end where one would."""

import pytest
import torch

from tests.prune.depgraph.networks import Residual, perturbed
from torchard.prune.depgraph import IterativePruner, Target, plan, prune, trace, verify

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def widths(model: Residual) -> list[int]:
    return [model.stem[0].out_channels, model.first[0][0].out_channels, model.first[1].out_channels]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cubic"])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_any_number_of_steps_ends_at_the_same_widths(steps, schedule):
    whole, stepwise = perturbed(Residual()), perturbed(Residual())
    prune(whole, X, ratio=0.5)
    pruner = IterativePruner(stepwise, X, steps, schedule, ratio=0.5)
    for _ in range(steps):
        pruner.step()
    assert widths(stepwise) == widths(whole) == [4, 8, 8]
    with pytest.raises(ValueError, match="all"):
        pruner.step()


def test_steps_go_down_the_schedule():
    model = perturbed(Residual())
    pruner = IterativePruner(model, X, 2, ratio=0.5)
    pruner.step()
    assert widths(model) == [6, 12, 12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0, "ratio": 0.5}, "steps=0"),
        ({"steps": 2}, "`ratio` is needed"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        IterativePruner(Residual(), X, **arguments)


def test_prune_times_the_model_for_a_latency_target():
    model = Residual()
    report = prune(model, X, target=Target(latency=1000.0))
    assert report.plan.removed == {}


def test_a_pruned_model_can_be_pruned_again():
    model = perturbed(Residual())
    prune(model, X, ratio=0.25)
    again = plan(trace(model, X), ratio=0.5, criterion="random")
    assert verify(model, again, X).passed


def test_the_report_prints_and_is_json():
    report = prune(Residual(), X, ratio=0.5)
    assert "3 groups" in str(report)
    facts = report.to_json()
    assert facts["after"]["params"] < facts["before"]["params"]
    assert {"name": "stem.0.weight", "before": 8, "after": 4} in facts["groups"]
    assert any(row["reason"] == "model output" for row in facts["frozen"])
