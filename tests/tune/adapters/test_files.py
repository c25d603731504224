"""Stored adapters that do not fit, or were tampered with, are refused and change nothing."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from torchard.core.errors import FileRefusedError
from torchard.tune import AdapterMismatchError, ssf


def model(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ssf.save(ssf.attach(model()), tmp_path / "adapter")


def edited(folder: Path, change: Callable[[dict], object]) -> Path:
    description = json.loads((folder / "adapter.json").read_text())
    change(description)
    (folder / "adapter.json").write_text(json.dumps(description))
    return folder


def refused(target: nn.Module, folder: Path, match: str) -> None:
    before = {key: value.clone() for key, value in target.state_dict().items()}
    flags = [p.requires_grad for p in target.parameters()]
    with pytest.raises(FileRefusedError, match=match):
        ssf.load(target, folder)
    assert target.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    assert [p.requires_grad for p in target.parameters()] == flags


def test_another_width_is_listed(folder):
    refused(model(width=5), folder, r"0 has width 5, the adapter 6; 1 has width 5")


def test_missing_layers_are_listed_and_passed_over_if_asked(folder):
    def without_hidden() -> nn.Module:
        return nn.Sequential(OrderedDict({"0": nn.Linear(4, 6), "2": nn.Linear(6, 3)}))

    refused(without_hidden(), folder, "1 is missing")
    with pytest.warns(UserWarning, match="other weights or shapes"):
        loaded = ssf.load(without_hidden(), folder, strict=False)
    assert ssf.summary(loaded).sites == ("0",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda d: d.update(method="lora"),
            r"made by 'lora', version 1. Known here: .*ssf \(up to version 1\)",
        ),
        (lambda d: d.update(method_version=2), "made by 'ssf', version 2"),
        (lambda d: d.update(format=2), "has format 2, this version reads 1"),
        (lambda d: d.pop("sites"), "sites missing or of the wrong type"),
        (lambda d: d["sites"].update({"0": ["Linear", "6"]}), "sites missing or of the wrong type"),
        (lambda d: d["sites"].update({"0": ["Linear", 10**12]}), "not of one saving|has width 6"),
        (lambda d: d.update(also_train=[{}]), "wrong type"),
        (lambda d: d["config"].update(module="os:system"), "not of one saving|unknown settings module"),
        (lambda d: d.update(name="a.b"), "not of one saving"),
    ],
    ids=["method", "version", "format", "no sites", "site types", "width", "names", "config", "name"],
)
def test_an_edited_description_is_refused(folder, change, match):
    refused(model(), edited(folder, change), match)


def test_a_truncated_or_foreign_tensor_file_is_refused(folder):
    file = folder / "adapter.safetensors"
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(model(), folder, "refused|damaged|cut short|empty|bytes")


def test_two_savings_cannot_be_mixed(folder, tmp_path):
    other = ssf.save(ssf.attach(model(), init_std=0.5), tmp_path / "other")
    (folder / "adapter.safetensors").write_bytes((other / "adapter.safetensors").read_bytes())
    refused(model(), folder, "not of one saving")


def test_other_base_weights_are_warned_about(folder):
    changed = model()
    changed[0].weight.data *= 1.5
    with pytest.warns(UserWarning, match="trained on a Sequential with other weights"):
        ssf.load(changed, folder)


def test_loading_over_the_same_name_is_refused(folder):
    target = ssf.attach(model())
    with pytest.raises(ValueError, match="attached already"):
        ssf.load(target, folder)


def test_not_finite_values_are_refused(tmp_path):
    sick = ssf.attach(model())
    sick[0].torchard_adapters["default"].scale.data[0] = float("nan")
    refused(model(), ssf.save(sick, tmp_path), r"0\.scale holds NaN")


def test_a_file_whose_classifier_does_not_fit_is_refused(folder):
    other = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    with pytest.warns(UserWarning, match="other weights or shapes"):
        refused(other, folder, r"also_train/2.weight is \(3, 6\) in the file, \(4, 6\) here")


def test_running_statistics_of_a_trained_head_are_stored(tmp_path):
    def with_norm() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()

    tuned = ssf.attach(with_norm(), targets=["0"], also_train=["1", "2"])
    tuned.train()(torch.randn(8, 4) + 3)
    loaded = ssf.load(with_norm(), ssf.save(tuned, tmp_path))
    assert torch.equal(loaded[2].running_mean, tuned[2].running_mean)
    assert not torch.equal(with_norm()[2].running_mean, tuned[2].running_mean)
    inputs = torch.randn(2, 4)
    assert torch.equal(loaded(inputs), tuned.eval()(inputs))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        ssf.load(model(), tmp_path / "nothing")


def test_mismatch_is_a_refused_file():
    assert issubclass(AdapterMismatchError, FileRefusedError)
