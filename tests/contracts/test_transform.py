"""What every transform keeps to: the model's type, others' flags, a way back, a way to disk."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.cases import TransformCase, case, entries


@pytest.fixture(params=entries("transform"), ids=lambda entry: entry.path)
def transform(request) -> TransformCase:
    return case(request.param, "transform")


@torch.no_grad()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    return model.eval()(inputs)


def with_mixed_flags(model: nn.Module) -> nn.Module:
    """Switch every third module to training and every second parameter off, as no method would."""
    model.eval()
    for module in list(model.modules())[1::3]:
        module.training = True
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    return model


def training_flags(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def gradient_flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def shared(before: dict[str, bool], after: dict[str, bool]) -> Iterator[tuple[str, bool, bool]]:
    """Name, flag before and flag after of what is there both times."""
    return ((name, before[name], after[name]) for name in before if name in after)


def test_the_model_keeps_its_type(transform):
    model = transform.build()
    kind = type(model)
    assert type(transform.apply(model)) is kind


def test_training_flags_of_what_is_still_there_stay(transform):
    model = with_mixed_flags(transform.build())
    before = training_flags(model)
    after = training_flags(transform.apply(model))
    assert [name for name, old, new in shared(before, after) if old != new] == []


def test_all_flags_are_as_before_once_it_is_undone(transform):
    model = with_mixed_flags(transform.build())
    training, gradients = training_flags(model), gradient_flags(model)
    model = transform.apply(model)
    if transform.undo is not None:
        model = transform.undo(model)
        assert training_flags(model) == training
        assert gradient_flags(model) == gradients
    else:
        assert [name for name, old, new in shared(gradients, gradient_flags(model)) if old != new] == []


def test_undoing_restores_every_tensor(transform):
    if transform.undo is None:
        return  # nothing promised; the flags are held to above, and saving below
    model = transform.undo(transform.apply(transform.build()))
    expected = transform.build().state_dict()
    assert list(model.state_dict()) == list(expected)
    assert [
        name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])
    ] == []


def test_it_comes_back_from_disk_the_same(transform, tmp_path: Path):
    model = transform.apply(transform.build())
    transform.save(model, tmp_path / "kept")
    loaded = transform.load(transform.build(), tmp_path / "kept")
    assert type(loaded) is type(model)
    assert torch.equal(outputs(loaded, transform.inputs), outputs(model, transform.inputs))


def test_a_deep_copy_lives_its_own_life(transform):
    model = transform.apply(transform.build())
    expected = outputs(model, transform.inputs)
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin, transform.inputs), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(outputs(model, transform.inputs), expected)


def test_global_switches_are_left_alone(transform):
    before = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    transform.apply(transform.build())
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == before


def test_gradients_still_flow(transform):
    model = transform.apply(transform.build()).train()
    model(transform.inputs).square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
