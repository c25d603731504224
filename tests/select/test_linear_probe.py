"""The linear probe is honest cross-validation and does not care how features are turned."""

import pytest
import torch

from tests.contracts.cases import MeasureCase
from torchard.select.linear_probe import linear_probe, linear_probe_hits


def task(n: int, d: int, noise: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 3
    return (
        torch.randn(3, d, generator=generator)[targets] + noise * torch.randn(n, d, generator=generator),
        targets,
    )


def contract_case() -> MeasureCase:
    rows, targets = task(60, 6, noise=2.0)
    return MeasureCase(linear_probe, rows, targets)


def test_separable_classes_score_one_and_random_labels_near_chance():
    rows, targets = task(90, 10, noise=0.1)
    assert linear_probe(rows, targets) == 1
    shuffled = targets[torch.randperm(90, generator=torch.Generator().manual_seed(1))]
    assert linear_probe(rows, shuffled) < 0.55


def test_features_beyond_the_samples_are_only_turned():
    rows, targets = task(45, 20, noise=2.0)
    padded = torch.cat([rows, torch.zeros(45, 40)], dim=1)
    assert torch.equal(linear_probe_hits(padded, targets), linear_probe_hits(rows, targets))


def test_scale_shift_and_names_do_not_matter():
    rows, targets = task(60, 8, noise=2.0)
    expected = linear_probe_hits(rows, targets)
    assert torch.equal(linear_probe_hits(rows * torch.arange(1, 9) + 5, targets * 2 + 1), expected)


def test_a_class_smaller_than_the_folds_is_refused():
    rows, targets = task(30, 4)
    targets[:8] = 0
    targets[targets == 2] = 1
    targets[0] = 2
    with pytest.raises(ValueError, match="single sample"):
        linear_probe(rows, targets)
    targets[1:4] = 2
    with pytest.raises(ValueError, match="between 2 and 4"):
        linear_probe(rows, targets)
