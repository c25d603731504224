"""What a user may ask of a run."""

import pytest

from torchard.core.budget import parse_latency, parse_macs, parse_params
from torchard.core.errors import UsageError
from torchard.pipeline import Settings


def test_without_any_target_half_the_operations_are_asked_for():
    assert {name: str(limit) for name, limit in Settings("x").targets.items()} == {"macs": "0.5x"}


def test_a_named_target_stands_alone():
    assert list(Settings("x", params=parse_params("2M")).targets) == ["params"]


def test_two_targets_hold_together():
    assert list(Settings("x", macs=parse_macs("1x"), params=parse_params("2M")).targets) == ["macs", "params"]


def test_settings_come_back_from_a_run_folder():
    given = Settings(
        "x", 90.0, params=parse_params("2.5M"), latency=parse_latency("8ms"), seed=3, metric="auroc"
    )
    assert Settings.from_json({"format": 1, **given.to_json()}) == given


def test_a_missing_setting_is_named():
    values = Settings("x").to_json()
    del values["models"]
    with pytest.raises(UsageError, match="models"):
        Settings.from_json(values)


@pytest.mark.parametrize("values", [{"seconds": 0.5}, {"seconds": float("nan")}, {"seed": -1}], ids=str)
def test_what_cannot_be_done_is_refused(values):
    with pytest.raises(UsageError):
        Settings("x", **values)
