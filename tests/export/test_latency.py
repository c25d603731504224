import time

import pytest
import torch
from torch import nn

from tests.export.models import SPEC, small_net
from torchard.export.latency import latencies


class Busy(nn.Module):
    """Takes at least so many milliseconds, and remembers how it was called."""

    def __init__(self, milliseconds: float, calls: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.milliseconds, self.calls = milliseconds, calls

    def forward(self, images):
        assert not self.training
        assert images.shape == (1, 3, *SPEC.size)
        assert torch.get_num_threads() == 1
        self.calls.append(self.milliseconds)
        end = time.perf_counter() + self.milliseconds / 1e3
        while time.perf_counter() < end:
            pass
        return images


def test_models_take_turns_and_the_first_call_of_a_turn_is_not_counted():
    calls: list[float] = []
    models = {"slow": Busy(2.0, calls).train(), "fast": Busy(0.1, calls)}
    found = latencies(models, SPEC, rounds=3, threads=1)
    assert calls == ([2.0] * 6 + [0.1] * 6) * 3
    assert found["slow"].repeats == 15
    assert found["slow"].median_ms >= 2.0
    assert found["slow"].p95_ms >= found["slow"].median_ms
    assert models["slow"].training


def test_onnx_and_eager_models_are_timed_alike(exported):
    found = latencies({"eager": small_net(), "onnx": exported.path}, SPEC, rounds=1)
    assert set(found) == {"eager", "onnx"}
    assert all(latency.median_ms > 0 for latency in found.values())


def test_no_rounds_no_time():
    with pytest.raises(ValueError, match="rounds"):
        latencies({}, SPEC, rounds=0)
