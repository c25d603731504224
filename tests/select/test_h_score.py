"""H-score: the definition, its invariances, and the shrinkage form in both shapes."""

import pytest
import torch
from sklearn.covariance import LedoitWolf

from tests.contracts.cases import MeasureCase
from torchard.select.h_score import h_score


def task(n: int, d: int, classes: int = 4, noise: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % classes
    rows = torch.randn(classes, d, generator=generator).double()[targets]
    return rows + noise * torch.randn(n, d, generator=generator).double(), targets


def class_mean_covariance(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    means = torch.stack([rows[targets == label].mean(dim=0) for label in range(4)])[targets]
    return torch.cov(means.T)


def contract_case() -> MeasureCase:
    rows, targets = task(60, 6)
    return MeasureCase(h_score, rows.float(), targets)


def test_equals_the_definition():
    rows, targets = task(100, 6)
    definition = torch.trace(torch.linalg.pinv(torch.cov(rows.T)) @ class_mean_covariance(rows, targets))
    assert h_score(rows, targets) == pytest.approx(definition.item())


@pytest.mark.parametrize("shape", [(100, 6), (30, 50)], ids=str)
def test_shrinkage_equals_the_definition(shape):
    rows, targets = task(*shape)
    fitted = LedoitWolf().fit(rows.numpy())
    precision = torch.from_numpy(fitted.precision_)
    definition = (1 - fitted.shrinkage_) * torch.trace(precision @ class_mean_covariance(rows, targets))
    assert h_score(rows, targets, shrinkage=True) == pytest.approx(definition.item(), rel=1e-8)


def test_affine_maps_of_the_features_change_nothing():
    rows, targets = task(100, 6)
    generator = torch.Generator().manual_seed(1)
    mapped = rows @ torch.randn(6, 6, generator=generator).double() + torch.arange(6)
    assert h_score(mapped, targets) == pytest.approx(h_score(rows, targets), abs=1e-8)


@pytest.mark.parametrize("shape", [(100, 6), (100, 2), (30, 50)], ids=str)
def test_bounds(shape):
    rows, targets = task(*shape)
    assert 0 <= h_score(rows, targets) <= min(shape[1], 3) + 1e-9
    assert 0 <= h_score(rows, targets, shrinkage=True) <= 3


def test_with_more_features_than_samples_only_shrinkage_tells_noise_apart():
    rows, targets = task(40, 60)
    noise = torch.randn(40, 60, generator=torch.Generator().manual_seed(5))
    assert h_score(noise, targets) == pytest.approx(3)
    assert h_score(noise, targets, shrinkage=True) < h_score(rows, targets, shrinkage=True)


@pytest.mark.parametrize("shrinkage", [False, True])
def test_order_names_and_random_labels(shrinkage):
    rows, targets = task(100, 6)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    score = h_score(rows, targets, shrinkage=shrinkage)
    assert h_score(rows[order], targets[order] * 3 + 2, shrinkage=shrinkage) == pytest.approx(score)
    assert h_score(rows, targets[order], shrinkage=shrinkage) < score


@pytest.mark.parametrize("shape", [(100, 6), (30, 50)], ids=str)
def test_with_nothing_left_of_the_covariance_it_goes_to_zero(shape, monkeypatch):
    rows, targets = task(*shape)
    for share, expected in ((1 - 1e-6, 1e-4), (1.0, 0.0)):
        monkeypatch.setattr("torchard.select.h_score.ledoit_wolf_shrinkage", lambda *_, s=share, **__: s)
        assert 0 <= h_score(rows, targets, shrinkage=True) <= expected


def test_constant_features_score_zero():
    _, targets = task(20, 3)
    assert h_score(torch.ones(20, 3), targets) == 0
    assert h_score(torch.ones(20, 3), targets, shrinkage=True) == 0
