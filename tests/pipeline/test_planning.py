"""Plans: as many steps as the time buys, at sizes that fit the images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchard.pipeline.planning import (
    BATCH_SIZE,
    FEWEST_EPOCHS,
    FEWEST_STEPS,
    MOST_EPOCHS,
    SMALLEST,
    Pace,
    Plan,
    affordable_sizes,
    least_images,
    measure_pace,
    phase_sizes,
    plan_training,
)

PACE = Pace(size=224, precision="no", seconds=0.02)


@given(st.integers(1, 600))
def test_phases_grow_and_end_at_the_final_size(final):
    sizes = phase_sizes(final)
    assert list(sizes) == sorted(sizes)
    assert sizes[-1] == final


@given(st.integers(10, 100_000), st.floats(1, 1e5))
def test_affordable_sizes_fit_the_time_unless_they_are_the_smallest(images, seconds):
    sizes = affordable_sizes(PACE, images, seconds, largest=224)
    cost = sum(PACE.at(size) for size in sizes) / len(sizes)
    assert sizes[-1] == SMALLEST or least_images(images) * cost <= seconds
    assert sizes[-1] <= 224


@given(st.integers(1, 600))
def test_a_part_of_a_step_grows_with_the_area(size):
    assert PACE.at(PACE.size) == pytest.approx(PACE.seconds)
    assert PACE.at(2 * size) - PACE.at(size) == pytest.approx(3 * (PACE.at(size) - PACE.at(0)))
    assert 0 < PACE.at(0) < PACE.seconds


def test_little_data_is_seen_often_enough_to_learn_from_it():
    assert least_images(50) == 50 * MOST_EPOCHS
    assert least_images(2_000) == FEWEST_STEPS * BATCH_SIZE
    assert least_images(100_000) == 100_000 * FEWEST_EPOCHS


def test_images_smaller_than_the_smallest_phase_stay_as_they_are():
    assert affordable_sizes(PACE, 10**9, 1.0, largest=28) == (28,)


def test_twice_the_time_buys_twice_the_steps_until_the_most_epochs():
    one, two, most = (plan_training(PACE, (224,), 1000, seconds).steps for seconds in (64.0, 128.0, 1e9))
    assert two == 2 * one == 200
    assert most == -(-MOST_EPOCHS * 1000 // 32)


def test_a_plan_has_at_least_one_step_and_no_batch_larger_than_the_data():
    plan = plan_training(PACE, (224,), 5, 0.0)
    assert (plan.steps, plan.batch_size) == (1, 5)


def test_a_plan_comes_back_from_its_json():
    plan = Plan(7, (32, 64), "bf16", 16)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_says_one_size_once():
    assert str(Plan(7, (32, 32), "no", 16)) == "7 steps of 16 images at 32 px"
    assert str(Plan(7, (32, 48, 64), "no", 16)) == "7 steps of 16 images at 32 to 64 px"


def test_measuring_the_pace_leaves_weights_statistics_and_gradients_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 3, 8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pace = measure_pace(model, 8, batch_size=4)
    assert pace.seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize("extra", [0.0, 0.5])
def test_a_teacher_makes_each_training_image_dearer(extra):
    assert PACE.with_extra(extra).seconds == PACE.seconds + extra
