"""core.randomness: the three global states are set, saved and given back together."""

import random

import numpy as np
import pytest
import torch

from torchard.core import checkpoint
from torchard.core.randomness import random_state, randomness_kept, seed_everything, set_random_state


def draw() -> tuple[float, ...]:
    # gauss and standard_normal keep half of a pair for the next call: that half is state too
    return random.random(), random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item()  # noqa: NPY002


def test_the_state_goes_through_a_checkpoint_and_everything_goes_on_from_there(tmp_path):
    seed_everything(3)
    draw()
    state = random_state()
    expected = [draw() for _ in range(3)]
    checkpoint.save(tmp_path / "state", state)
    seed_everything(4)
    state = checkpoint.load(tmp_path / "state")
    set_random_state(state)
    assert [draw() for _ in range(3)] == expected


def test_seeds_repeat_and_ranks_differ():
    draws = []
    for seed, rank in ((1, 0), (1, 0), (1, 1)):
        seed_everything(seed, rank=rank)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert all(left != right for left, right in zip(draws[0], draws[2]))


def test_seeds_beyond_32_bits_are_fine():
    seed_everything(2**40)
    assert draw() != draw()


def test_kept_gives_the_state_back_also_after_an_error():
    seed_everything(0)
    expected = draw()
    seed_everything(0)

    def fail() -> None:
        with randomness_kept():
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected
