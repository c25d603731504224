"""TransRate: the definition, and what coding rates must keep to."""

import math

import pytest
import torch

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds, rotation
from torchard.select.transrate import coding_rate, rate_reduction, transrate


def contract_case() -> MeasureCase:
    rows, targets = clouds()
    return MeasureCase(transrate, rows.float(), targets)


@pytest.mark.parametrize("shape", [(30, 5), (12, 20)], ids=str)
def test_equals_the_definition(shape):
    rows, targets = clouds(*shape)
    centred = rows - rows.mean(dim=0)

    def rate(z: torch.Tensor) -> float:
        return 0.5 * torch.logdet(torch.eye(z.shape[1]) + z.T @ z / (len(z) * 1e-4)).item()

    within = sum(rate(centred[targets == c]) * (targets == c).double().mean().item() for c in range(3))
    assert transrate(rows, targets) == pytest.approx(rate(centred) - within)


def test_one_class_saves_nothing():
    rows, _ = clouds()
    assert rate_reduction(rows, torch.zeros(90, dtype=torch.int64), 1e-4) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("noise", [0.1, 1.0, 100.0])
def test_it_is_never_negative_and_ignores_rotation(noise):
    rows, targets = clouds(noise=noise)
    score = transrate(rows, targets)
    assert score >= 0
    assert transrate(rows @ rotation(6), targets) == pytest.approx(score)


def test_both_grams_give_the_same_rate():
    rows, _ = clouds(20, 20)
    padded = torch.cat([rows, torch.zeros(20, 7)], dim=1)
    assert coding_rate(padded, 1e-3) == pytest.approx(coding_rate(rows, 1e-3))


def test_one_feature_by_hand():
    rows = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    # within each class the feature is ±1, centred on the whole: the code saves nothing
    assert transrate(rows, torch.tensor([0, 0, 1, 1]), eps=1.0) == pytest.approx(0)
    mixed = transrate(torch.tensor([[2.0], [0.0], [-2.0], [0.0]]), torch.tensor([0, 1, 0, 1]), eps=1.0)
    assert mixed == pytest.approx(0.5 * math.log(3) - 0.25 * math.log(5))


def test_a_distortion_of_zero_is_refused():
    with pytest.raises(ValueError, match="eps"):
        transrate(*clouds(), eps=0.0)
