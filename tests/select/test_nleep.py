"""N-LEEP finds clusters, and draws the same ones for any order of the samples."""

import math

import pytest
import torch

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds
from torchard.select.nleep import nleep


def contract_case() -> MeasureCase:
    rows, targets = clouds(120, 5)
    return MeasureCase(nleep, rows.float(), targets)


def test_clusters_that_are_the_classes_score_zero_and_one_cluster_the_entropy():
    rows, targets = clouds(90, 5, noise=0.01)
    assert nleep(rows, targets, components=3) == pytest.approx(0, abs=1e-6)
    assert nleep(rows, targets, components=1) == pytest.approx(-math.log(3))


def test_the_seed_decides_the_start_and_the_order_nothing():
    rows, targets = clouds(120, 5, noise=2.0)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert nleep(rows[order], targets[order]) == pytest.approx(nleep(rows, targets), rel=1e-9)
    assert nleep(rows, targets, seed=1) != nleep(rows, targets, seed=2)


def test_scale_does_not_matter():
    rows, targets = clouds(120, 5, noise=2.0)
    assert nleep(1000 * rows, targets) == pytest.approx(nleep(rows, targets), rel=1e-6)


@pytest.mark.parametrize("options", [{"components": 0}, {"components": 91}, {"energy": 0.0}, {"energy": 1.5}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        nleep(*clouds(90), **options)
