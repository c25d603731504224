"""core.schedule: a function of the fraction used, or torch's own schedulers, set the learning rates."""

import pytest
import torch
from torch import nn

from torchard.core.errors import UsageError
from torchard.core.schedule import Schedule


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def test_a_function_gives_factors_on_the_initial_rates():
    rates = optimizer(0.1, 0.01)
    schedule = Schedule(rates, lambda fraction: 1 - fraction**2)
    for fraction in (0.0, 0.5, 0.25, 1.0):
        schedule.before_step(fraction)
        schedule.after_step()
        found = [group["lr"] for group in rates.param_groups]
        assert found == pytest.approx([0.1 * (1 - fraction**2), 0.01 * (1 - fraction**2)])
    assert schedule.state_dict() == {}


def test_a_group_added_later_starts_from_its_own_rate():
    rates = optimizer(0.1)
    schedule = Schedule(rates, lambda fraction: 1 - fraction)
    schedule.before_step(0.5)
    rates.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 1.0})
    schedule.before_step(0.75)
    assert [group["lr"] for group in rates.param_groups] == pytest.approx([0.025, 0.25])


def test_none_leaves_the_rates_alone():
    rates = optimizer(0.1)
    schedule = Schedule(rates, None)
    schedule.before_step(0.9)
    schedule.after_step()
    assert schedule.learning_rate == 0.1
    assert "initial_lr" not in rates.param_groups[0]


def test_a_torch_scheduler_goes_on_from_its_state():
    def build():
        rates = optimizer(0.1)
        return Schedule(rates, torch.optim.lr_scheduler.CosineAnnealingLR(rates, 10)), rates

    def step(schedule, rates, count):
        found = []
        for _ in range(count):
            schedule.before_step(0.0)
            rates.step()
            schedule.after_step()
            found.append(schedule.learning_rate)
        return found

    whole = step(*build(), 6)
    first, rates = build()
    head = step(first, rates, 3)
    second, fresh = build()
    fresh.load_state_dict(rates.state_dict())
    second.load_state_dict(first.state_dict())
    assert head + step(second, fresh, 3) == whole


def test_a_scheduler_that_needs_a_metric_is_refused():
    rates = optimizer(0.1)
    with pytest.raises(UsageError, match="on_evaluated"):
        Schedule(rates, torch.optim.lr_scheduler.ReduceLROnPlateau(rates))
