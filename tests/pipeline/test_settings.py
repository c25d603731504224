"""What a user may ask of a run."""

import pytest

from torchard.core.budget import parse_macs, parse_params
from torchard.core.errors import UsageError
from torchard.pipeline import Settings


def test_without_any_target_half_the_operations_are_asked_for():
    assert {name: str(limit) for name, limit in Settings("x").targets.items()} == {"macs": "0.5x"}


def test_a_named_target_stands_alone():
    assert list(Settings("x", params=parse_params("2M")).targets) == ["params"]


def test_two_targets_hold_together():
    assert list(Settings("x", macs=parse_macs("1x"), params=parse_params("2M")).targets) == ["macs", "params"]


@pytest.mark.parametrize("values", [{"seconds": 0.5}, {"seconds": float("nan")}, {"seed": -1}], ids=str)
def test_what_cannot_be_done_is_refused(values):
    with pytest.raises(UsageError):
        Settings("x", **values)
