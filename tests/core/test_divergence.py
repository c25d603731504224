"""core.divergence: loss and gradients that say a training is over."""

import math

import pytest
import torch
from torch import nn

from torchard.core.divergence import STILL_STEPS, Watch, gradient_norm
from torchard.core.errors import DivergedError


def test_the_norm_is_that_of_all_gradients_together():
    first, second, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer = torch.optim.SGD([{"params": [first, none]}, {"params": [second]}], lr=1.0)
    assert gradient_norm(optimizer) == 5.0
    optimizer.zero_grad()
    assert gradient_norm(optimizer) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("of", ["loss", "norm"])
def test_what_is_no_number_is_told_with_step_and_checkpoint(bad, of):
    values = {"loss": 1.0, "norm": 1.0} | {of: bad}
    with pytest.raises(DivergedError, match=r"at step 7; the last is good\. Try a lower") as caught:
        Watch().check(**values, step=7, saved="the last is good")
    assert "\n" not in str(caught.value)


def test_stillness_must_be_unbroken_and_survives_a_kill():
    watch = Watch()
    for step in range(STILL_STEPS - 1):
        watch.check(1.0, 0.0, step=step, saved="")
    watch.check(1.0, 1e-30, step=0, saved="")
    for step in range(STILL_STEPS - 1):
        watch.check(1.0, 0.0, step=step, saved="")
    second = Watch()
    second.load_state_dict(watch.state_dict())
    with pytest.raises(DivergedError, match=f"zero for {STILL_STEPS} steps"):
        second.check(1.0, 0.0, step=9, saved="")
