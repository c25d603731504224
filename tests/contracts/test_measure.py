"""What every measure keeps to: finite numbers, the same in any order of the samples, no silence about NaN."""

import math

import pytest
import torch

from tests.contracts.cases import MeasureCase, case, entries


@pytest.fixture(params=entries("measure"), ids=lambda entry: entry.path)
def measured(request) -> MeasureCase:
    return case(request.param, "measure")


def test_it_is_a_finite_number_and_the_same_each_time(measured):
    value = measured.measure(measured.features, measured.targets)
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert measured.measure(measured.features, measured.targets) == value


def test_the_order_of_the_samples_is_nothing(measured):
    order = torch.randperm(len(measured.features), generator=torch.Generator().manual_seed(7))
    shuffled = measured.measure(measured.features[order], measured.targets[order])
    assert shuffled == pytest.approx(
        measured.measure(measured.features, measured.targets), rel=1e-6, abs=1e-9
    )


def test_it_reads_the_targets(measured):
    """A measure that ignores the labels would keep the rest of this contract."""
    order = torch.randperm(len(measured.targets), generator=torch.Generator().manual_seed(7))
    shuffled = measured.measure(measured.features, measured.targets[order])
    assert shuffled != pytest.approx(
        measured.measure(measured.features, measured.targets), rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(measured, bad):
    features = measured.features.clone()
    features[len(features) // 2, 0] = bad
    with pytest.raises(ValueError, match=r"(?i)nan|inf"):
        measured.measure(features, measured.targets)


def test_features_and_targets_of_unequal_length_are_refused(measured):
    with pytest.raises(Exception, match=r"\S"):
        measured.measure(measured.features, measured.targets[:-1])


def test_its_inputs_stay_as_they_were(measured):
    features, targets = measured.features.clone(), measured.targets.clone()
    measured.measure(measured.features, measured.targets)
    assert torch.equal(features, measured.features)
    assert torch.equal(targets, measured.targets)
