"""ETran scales its terms over the candidates."""

import pytest
import torch

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds
from torchard.select.etran import etran, etran_terms
from torchard.select.lda_probe import lda_in_sample


def contract_case() -> MeasureCase:
    rows, targets = clouds(noise=2.0)
    return MeasureCase(lambda x, y: float(sum(etran_terms(x, y))), rows.float(), targets)


def test_terms_are_energy_and_discriminant():
    rows, targets = clouds(noise=2.0)
    energy, classified = etran_terms(rows, targets)
    assert energy == pytest.approx(rows.exp().sum(dim=1).log().mean().item())
    assert classified == pytest.approx(lda_in_sample(rows, targets).mean().item())


def test_each_term_is_scaled_over_the_candidates():
    assert etran([(1.0, -2.0), (3.0, -1.0), (2.0, -2.0)]) == pytest.approx([0.0, 2.0, 0.5])


def test_a_term_that_all_share_counts_nothing():
    assert etran([(5.0, 0.0), (5.0, 1.0)]) == pytest.approx([0.0, 1.0])
    assert etran([(5.0, 3.0)]) == [0.0]


def test_no_candidates_and_bad_features_are_refused():
    with pytest.raises(ValueError, match="nothing to compare"):
        etran([])
    with pytest.raises(ValueError, match="NaN"):
        etran_terms(torch.full((4, 2), float("nan")), torch.tensor([0, 1, 0, 1]))
