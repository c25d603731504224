"""Jobs in other processes: results come back by name, and a process that dies takes no other job with it."""

import os
import sys

import pytest

from torchard.core.errors import MissingExtraError, UsageError
from torchard.select.workers import run_jobs


def doubled_or_dead(value: int) -> int:
    if value < 0:
        os._exit(9)
    return 2 * value


def test_a_process_that_dies_is_named_and_costs_no_other_job():
    found = dict(run_jobs(doubled_or_dead, {"good": 3, "bad": -1}, workers=2))
    assert found["good"] == 6
    assert isinstance(found["bad"], RuntimeError)
    assert "died" in str(found["bad"])


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"torchard\[ray\]"):
        list(run_jobs(doubled_or_dead, {"good": 3}, workers=1, engine="ray"))


def test_what_has_no_name_elsewhere_cannot_be_sent():
    with pytest.raises(UsageError, match="good cannot be sent"):
        list(run_jobs(lambda value: value, {"good": 3}, workers=1))
    with pytest.raises(UsageError, match="workers=0"):
        list(run_jobs(doubled_or_dead, {"good": 3}, workers=0))
