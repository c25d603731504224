"""What every loss keeps to: one finite number, its true gradient, and nothing else touched."""

import pytest
import torch

from tests.contracts.cases import LossCase, case, entries


@pytest.fixture(params=entries("loss"), ids=lambda entry: entry.path)
def loss(request) -> LossCase:
    return case(request.param, "loss")


def test_it_is_one_finite_number_and_the_same_each_time(loss):
    value = loss.loss(loss.inputs)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert torch.equal(loss.loss(loss.inputs), value)


def test_its_gradient_is_that_of_finite_differences(loss):
    inputs = loss.inputs.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss.loss, [inputs], fast_mode=True)
    loss.loss(inputs).backward()
    assert inputs.grad.any()


def test_its_inputs_stay_as_they_were(loss):
    inputs = loss.inputs.clone()
    loss.loss(inputs)
    assert torch.equal(inputs, loss.inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_types_stay_near(loss, dtype):
    expected = loss.loss(loss.inputs).item()
    assert loss.loss(loss.inputs.to(dtype)).item() == pytest.approx(expected, rel=0.05, abs=1e-3)


def test_a_small_step_against_the_gradient_makes_it_smaller(loss):
    inputs = loss.inputs.clone().requires_grad_()
    value = loss.loss(inputs)
    (gradient,) = torch.autograd.grad(value, inputs)
    step = 1e-3 / gradient.norm()
    assert loss.loss(inputs.detach() - step * gradient) < value
