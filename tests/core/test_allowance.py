"""core.allowance: what is used of epochs, steps and seconds."""

import math

import pytest

from torchard.core import allowance
from torchard.core.allowance import Allowance
from torchard.core.errors import UsageError


class Time:
    def __init__(self) -> None:
        self.value = 100.0

    def monotonic(self) -> float:
        return self.value


@pytest.fixture
def time(monkeypatch) -> Time:
    clock = Time()
    monkeypatch.setattr(allowance, "time", clock)
    return clock


def test_each_limit_is_used_on_its_own(time):
    left = Allowance(epochs=4, steps=10, seconds=20)
    left.clock, left.closing = 5.0, 1.0
    assert left.used(epochs=1.5, steps=3) == {"epochs": 0.375, "steps": 0.3, "seconds": 0.3}
    assert Allowance(epochs=None, steps=2, seconds=None).used(epochs=9, steps=1) == {"steps": 0.5}


def test_the_clock_goes_on_from_a_saved_time(time):
    first = Allowance(epochs=None, steps=None, seconds=60)
    time.value += 7
    first.clock = first.now()
    second = Allowance(epochs=None, steps=None, seconds=60)
    time.value += 1000  # nobody was there
    second.load_state_dict(first.state_dict())
    time.value += 2
    assert second.now() == 9
    second.start()
    assert (second.now(), second.clock) == (0, 0)


@pytest.mark.parametrize("bad", [None, 0, -1, math.nan, math.inf])
def test_what_is_no_limit_is_refused(bad):
    with pytest.raises(UsageError, match="above zero"):
        Allowance(epochs=None, steps=None, seconds=bad)
