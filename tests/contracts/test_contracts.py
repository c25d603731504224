"""The contracts themselves: they pass what is right and catch what is wrong, each fault by its own check."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.contracts import test_measure, test_tool, test_transform
from tests.contracts.cases import MeasureCase, ToolCase, TransformCase

TICKS = count()


def checks(module: ModuleType) -> dict[str, Callable[..., None]]:
    return {name: value for name, value in vars(module).items() if name.startswith("test_")}


def failed(module: ModuleType, case: object, **more: object) -> set[str]:
    """Run every check of one contract on ``case``; return the names of those that fail."""
    names = set()
    for name, check in checks(module).items():
        wanted = check.__code__.co_varnames[1 : check.__code__.co_argcount]
        try:
            with torch.enable_grad():  # a case that switches gradients off must not reach the next check
                check(case, **{key: more[key] for key in wanted})
        except (Exception, pytest.fail.Exception):
            names.add(name)
    return names


def distance(features: Tensor, targets: Tensor) -> float:
    if not features.isfinite().all():
        raise ValueError("`features` hold NaN or infinity")
    return (features.mean(1) - targets).square().mean().item()


MEASURE = MeasureCase(
    distance, torch.rand(6, 2, generator=torch.Generator().manual_seed(1)), torch.arange(6.0)
)


def spoiling(features: Tensor, targets: Tensor) -> float:
    features += 1
    return distance(features, targets)


@pytest.mark.parametrize(
    ("measure", "caught"),
    [
        (distance, set()),
        (lambda x, y: distance(x, y) + x[0, 0].item(), {"test_the_order_of_the_samples_is_nothing"}),
        (lambda x, y: distance(x.nan_to_num(0), y), {"test_what_is_not_finite_is_refused"}),
        (lambda x, y: distance(x, y - y), {"test_it_reads_the_targets"}),
        (lambda x, y: float("inf"), {"test_it_is_a_finite_number_and_the_same_each_time"}),
        (
            lambda x, y: distance(x, y) + next(TICKS),
            {"test_it_is_a_finite_number_and_the_same_each_time"},
        ),
        (spoiling, {"test_its_inputs_stay_as_they_were"}),
        (lambda x, y: distance(x[: len(y)], y), {"test_features_and_targets_of_unequal_length_are_refused"}),
    ],
    ids=["right", "order", "nan", "labels", "infinite", "random", "spoils inputs", "length"],
)
def test_the_measure_contract(measure, caught):
    case = replace(MEASURE, measure=measure, features=MEASURE.features.clone())
    found = failed(test_measure, case, bad=float("nan"))
    assert caught <= found
    assert bool(caught) == bool(found)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).relu()) * getattr(self, "scale", 1)


def build() -> Small:
    torch.manual_seed(3)
    return Small()


def attach(model: nn.Module) -> nn.Module:
    model.before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    model.scale = nn.Parameter(torch.ones(2))
    return model


def detach(model: nn.Module) -> nn.Module:
    del model.scale
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(model.before[name])
    return model


def save(model: nn.Module, path: Path) -> None:
    path.mkdir()
    torch.save(model.scale.detach(), path / "scale.pt")


def load(model: nn.Module, path: Path) -> nn.Module:
    model = attach(model)
    model.scale.data = torch.load(path / "scale.pt")
    return model


RIGHT = TransformCase(build, torch.ones(5, 3), attach, save, load, detach)


def put_in_eval(model: nn.Module) -> nn.Module:
    return attach(model).eval()


def forget_flags(model: nn.Module) -> nn.Module:
    return detach(model).requires_grad_(True)


def scale_weights(model: nn.Module) -> nn.Module:
    attach(model).first.weight.data *= 2
    return model


def switch_off_gradients(model: nn.Module) -> nn.Module:
    torch.set_grad_enabled(False)
    return attach(model)


def attach_frozen(model: nn.Module) -> nn.Module:
    return attach(model).requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        ({}, set()),
        ({"apply": put_in_eval}, {"test_training_flags_of_what_is_still_there_stay"}),
        ({"apply": lambda model: nn.Sequential(attach(model))}, {"test_the_model_keeps_its_type"}),
        ({"undo": forget_flags}, {"test_all_flags_are_as_before_once_it_is_undone"}),
        ({"undo": None}, {"test_all_flags_are_as_before_once_it_is_undone"}),
        ({"apply": scale_weights}, {"test_undoing_restores_every_tensor"}),
        (
            {"load": lambda model, path: attach(scale_weights(model))},
            {"test_it_comes_back_from_disk_the_same"},
        ),
        ({"apply": switch_off_gradients}, {"test_global_switches_are_left_alone"}),
        ({"apply": attach_frozen}, {"test_gradients_still_flow"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else "-".join(value) or "right",
)
def test_the_transform_contract(change, caught, tmp_path):
    found = failed(test_transform, replace(RIGHT, **change), tmp_path=tmp_path)
    assert caught <= found
    assert bool(caught) == bool(found)


def test_the_transform_contract_catches_shared_copies(tmp_path):
    class Selfish(Small):
        def __deepcopy__(self, memo: dict[int, object]) -> "Selfish":
            return copy.copy(self)

    found = failed(test_transform, replace(RIGHT, build=Selfish), tmp_path=tmp_path)
    assert "test_a_deep_copy_lives_its_own_life" in found


def leave_a_mark() -> str:
    os.environ["TORCHARD_MARK"] = str(os.getpid())
    return "looked"


@pytest.mark.parametrize(
    ("run", "caught"),
    [
        (lambda: "seen", set()),
        (lambda: " \n", {"test_it_says_something_and_the_same_again"}),
        (lambda: f"{next(TICKS)}", {"test_it_says_something_and_the_same_again"}),
        (leave_a_mark, {"test_it_leaves_the_process_as_it_was"}),
    ],
    ids=["right", "silent", "changing", "marks"],
)
def test_the_tool_contract(run, caught, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    checks_first = dict(reversed(list(checks(test_tool).items())))  # the mark is left once only
    monkeypatch.setattr(f"{__name__}.checks", lambda module: checks_first)
    assert failed(test_tool, ToolCase(run)) == caught
