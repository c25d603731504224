"""GBC: the definition, and the two ends of its range."""

import math

import pytest
import torch

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds, rotation
from torchard.select.gbc import FLOOR, gbc


def contract_case() -> MeasureCase:
    rows, targets = clouds()
    return MeasureCase(gbc, rows.float(), targets)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
def test_equals_the_definition_in_principal_components(covariance):
    rows, targets = clouds(60, 4)
    centred = rows - rows.mean(dim=0)
    turned = centred @ torch.linalg.svd(centred)[2].T
    floor = FLOOR * turned.var(dim=0, correction=0).mean()
    means = [turned[targets == c].mean(dim=0) for c in range(3)]
    variances = [turned[targets == c].var(dim=0, correction=0) for c in range(3)]
    if covariance == "spherical":
        variances = [variance.mean().expand(4) for variance in variances]
    total = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                a, b = (torch.diag(variances[k] + floor) for k in (i, j))
                middle = (a + b) / 2
                gap = means[i] - means[j]
                distance = gap @ torch.linalg.inv(middle) @ gap / 8
                distance += 0.5 * torch.log(middle.det() / (a.det() * b.det()).sqrt())
                total += math.exp(-distance)
    assert gbc(rows, targets, covariance=covariance) == pytest.approx(-total)


def test_alike_classes_overlap_wholly_and_distant_ones_not_at_all():
    rows, _ = clouds(30, 4)
    targets = torch.arange(3).repeat_interleave(30)
    assert gbc(rows.repeat(3, 1), targets) == pytest.approx(-6)
    # far apart in all directions, or the floor, a share of the whole variance, would bridge the gap
    apart = rows.repeat(3, 1) + 100 * torch.eye(3, 4)[targets]
    assert gbc(apart, targets) == pytest.approx(0, abs=1e-12)


def test_scale_and_rotation_do_not_matter():
    rows, targets = clouds(60, 5, noise=2.0)
    score = gbc(rows, targets)
    assert gbc(rows @ rotation(5) * 7 + 3, targets) == pytest.approx(score)


def test_only_leading_components_count():
    rows, targets = clouds(60, 5, noise=2.0)
    assert gbc(rows, targets, dims=5) == gbc(rows, targets, dims=64)
    assert gbc(rows, targets, dims=1) < gbc(rows, targets, dims=5)
    with pytest.raises(ValueError, match="dims"):
        gbc(rows, targets, dims=0)


def test_a_class_of_one_sample_and_constant_features_are_defined():
    rows, targets = clouds(30, 4)
    targets[0] = 9
    assert math.isfinite(gbc(rows, targets))
    assert gbc(torch.ones(30, 4), torch.arange(30) % 2) == pytest.approx(-2)
