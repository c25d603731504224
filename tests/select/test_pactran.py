"""PACTran: the bound against its own definition, term by term."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds, rotation
from torchard.select.pactran import bound, hessian_trace, pactran


def contract_case() -> MeasureCase:
    rows, targets = clouds(noise=2.0)
    return MeasureCase(pactran, rows.float(), targets)


def test_trace_is_that_of_the_full_hessian():
    rows, targets = clouds(20, 4)
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda w: cross_entropy(rows @ w, targets), weights)
    assert hessian_trace(rows, weights) == pytest.approx(
        torch.trace(hessian.reshape(12, 12)).item(), rel=1e-10
    )


def test_bound_is_the_minimum_over_gaussians_around_the_best_classifier():
    """Minimise the second-order bound over weights and the posterior's variance by a search of its own."""
    rows, targets = clouds(40, 3, noise=1.5)
    beta, prior = 200.0, 0.5
    weights = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def penalised() -> torch.Tensor:
        return cross_entropy(rows @ weights, targets) + weights.square().sum() / (2 * beta * prior)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = penalised()
        loss.backward()
        return loss

    optimizer.step(step)
    trace = hessian_trace(rows, weights.detach())
    variances = torch.logspace(-8, 2, 200_001, dtype=torch.float64)
    gaussian = (
        variances / prior - 1 - (variances / prior).log()
    )  # of the Kullback-Leibler divergence, a weight
    found = penalised().detach() + (variances / 2 * trace + 9 / (2 * beta) * gaussian).min()
    assert bound(rows, targets, beta * prior, beta) == pytest.approx(found.item(), abs=1e-6)


def test_scale_rotation_shift_and_padding_do_not_matter():
    rows, targets = clouds(60, 5, noise=2.0)
    score = pactran(rows, targets)
    assert pactran(rows @ rotation(5) * 7 + 3, targets) == pytest.approx(score, abs=1e-5)


def test_knowing_nothing_costs_the_entropy_and_separation_nearly_nothing():
    rows = torch.zeros(30, 4)
    assert pactran(rows, torch.arange(30) % 3) <= -math.log(3)
    apart, targets = clouds(300, 5, noise=0.01)
    assert -0.1 < pactran(apart, targets) < 0
    noisy, _ = clouds(300, 5, noise=3.0)
    assert pactran(noisy, targets) < pactran(apart, targets)


def test_true_labels_score_above_shuffled_ones_and_more_noise_lower():
    rows, targets = clouds(90, 6, noise=1.0)
    shuffled = targets[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    assert pactran(rows, targets) > pactran(rows, shuffled) + 0.1


def test_fewer_samples_than_features_are_fine():
    rows, targets = clouds(20, 50)
    assert math.isfinite(pactran(rows, targets))
    assert pactran(rows, targets, dims=3) != pactran(rows, targets)


@pytest.mark.parametrize(
    "option", [{"dims": 0}, {"prior_variance": 0.0}, {"inverse_temperature": -1.0}], ids=str
)
def test_options_must_be_positive(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        pactran(*clouds(), **option)
