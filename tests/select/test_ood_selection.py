"""OOD measures against normal distributions in closed form, and the rule against cases by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm
from torch import nn

from tests.contracts.cases import MeasureCase
from torchard.select.ood_selection import (
    expansion_function,
    feature_informativeness,
    feature_variation,
    max_variation_direction,
    ood_measures,
    select_model,
    select_ood,
)


def draws(n: int, shifts: torch.Tensor, *, seed: int = 0):
    """Normal features (d of them) of classes × domains, each cell with its own means ``shifts[k, e]``."""
    classes, domains, d = shifts.shape
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat_interleave(domains * n)
    places = torch.arange(domains).repeat_interleave(n).repeat(classes)
    noise = torch.randn(len(targets), d, generator=generator).double()
    return shifts[targets, places] + noise, targets, places


def small(n: int = 40, d: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed + 100)
    return draws(n, torch.randn(2, 3, d, generator=generator).double(), seed=seed)


def contract_case() -> MeasureCase:
    """The domain rides in the last column, so that it is shuffled with its sample."""
    rows, targets, places = small()
    joined = torch.cat([rows, places[:, None]], dim=1).float()
    return MeasureCase(
        lambda x, y: ood_measures(x[:, :-1], y, x[:, -1].long()).model_variation(0.0), joined, targets
    )


@pytest.mark.parametrize("gap", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("width", [0.05, 0.5])
def test_normal_classes_have_the_closed_form(gap, width):
    """One feature shifts between domains, the other between classes."""
    shifts = torch.zeros(2, 2, 2).double()
    shifts[:, 1, 0] = gap
    shifts[1, :, 1] = gap
    rows, targets, places = draws(20_000, shifts)
    measures = ood_measures(rows, targets, places, bandwidth=width)
    expected = 2 * norm.cdf(gap / (2 * math.sqrt(1 + width**2))) - 1
    assert measures.variation[0].item() == pytest.approx(expected, abs=0.012)
    assert measures.informativeness[1].item() == pytest.approx(expected, abs=0.012)
    assert measures.variation[1] < 0.04
    assert measures.informativeness[0] < 0.04


def test_equals_densities_of_scipy():
    rows, targets, places = small()
    measures = ood_measures(rows, targets, places, grid_size=2000)
    width = measures.bandwidth[0].item()
    for j in range(3):
        grid = np.linspace(float(rows[:, j].min()) - 6 * width, float(rows[:, j].max()) + 6 * width, 4000)

        def density(k: int, e: int, j: int = j, grid: np.ndarray = grid) -> np.ndarray:
            samples = rows[(targets == k) & (places == e), j].numpy()
            return gaussian_kde(samples, bw_method=width / samples.std(ddof=1))(grid)

        def apart(a: np.ndarray, b: np.ndarray, grid: np.ndarray = grid) -> float:
            return 0.5 * np.abs(a - b).sum() * (grid[1] - grid[0])

        pairs = [(0, 1), (0, 2), (1, 2)]
        variation = [max(apart(density(k, a), density(k, b)) for a, b in pairs) for k in range(2)]
        tells = min(apart(density(0, e), density(1, e)) for e in range(3))
        assert measures.per_class_variation[:, j].tolist() == pytest.approx(variation, abs=1e-3)
        assert measures.informativeness[j].item() == pytest.approx(tells, abs=1e-3)


def test_the_same_samples_in_two_domains_do_not_vary_at_all():
    rows, targets, places = small(40)
    here = places == 0
    twice = torch.cat([rows[here], rows[here]])
    domains = torch.arange(2).repeat_interleave(int(here.sum()))
    assert torch.equal(feature_variation(twice, targets[here].repeat(2), domains), torch.zeros(3).double())


def test_more_domains_never_vary_less_nor_tell_more():
    rows, targets, places = small()
    two = places < 2
    part = ood_measures(rows[two], targets[two], places[two], bandwidth=0.3)
    whole = ood_measures(rows, targets, places, bandwidth=0.3)
    assert (whole.variation >= part.variation - 1e-3).all()
    assert (whole.informativeness <= part.informativeness + 1e-3).all()
    assert 0 <= whole.variation.min() <= whole.variation.max() <= 1


@pytest.mark.parametrize("bandwidth", ["pooled", "per_feature"])
def test_affine_maps_change_nothing(bandwidth):
    rows, targets, places = small()
    scale = torch.tensor([3.0, 3.0, 3.0]) if bandwidth == "pooled" else torch.tensor([0.01, 5.0, 800.0])
    before = ood_measures(rows, targets, places, bandwidth=bandwidth)
    after = ood_measures(rows * scale + 7, targets, places, bandwidth=bandwidth)
    torch.testing.assert_close(after.variation, before.variation, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.informativeness, before.informativeness, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bandwidth", ["pooled", "per_feature"])
def test_a_constant_feature_neither_varies_nor_tells(bandwidth):
    rows, targets, places = small()
    rows[:, 1] = 4.0
    measures = ood_measures(rows, targets, places, bandwidth=bandwidth)
    assert measures.variation[1] == measures.informativeness[1] == 0


def test_a_feature_constant_within_classes_tells_all():
    _, targets, places = small()
    measures = ood_measures(targets[:, None].double(), targets, places)
    assert measures.informativeness.item() == pytest.approx(1, abs=1e-4)  # the kernel ends at 4 widths
    assert measures.variation.item() == 0


def test_a_feature_of_far_larger_range_is_still_resolved():
    rows, targets, places = small()
    rows[:, 2] *= 2000
    alone = feature_variation(rows[:, 2:], targets, places, bandwidth=0.3 * 2000)
    assert ood_measures(rows, targets, places, bandwidth="per_feature").variation[2] > 0
    wide = feature_variation(rows, targets, places, bandwidth=0.3 * 2000)
    assert wide[2].item() == pytest.approx(alone.item(), abs=1e-3)


def test_model_variation_is_the_mean_over_informative_features():
    rows, targets, places = small()
    measures = ood_measures(rows, targets, places)
    threshold = measures.informativeness.median().item()
    expected = measures.variation[measures.informativeness >= threshold].mean().item()
    assert measures.model_variation(threshold) == pytest.approx(expected)
    assert math.isnan(measures.model_variation(1.1))
    assert torch.equal(feature_informativeness(rows, targets, places), measures.informativeness)


def test_the_worst_direction_varies_at_least_as_much_as_any_feature():
    shifts = torch.zeros(2, 2, 4).double()
    shifts[:, 1, :] = 0.7  # every feature moves a little: their sum moves twice as far in its own spread
    rows, targets, places = draws(60, shifts)
    value, direction = max_variation_direction(rows, targets, places, steps=40)
    single = feature_variation(rows, targets, places)
    assert value > single.max().item() + 0.1
    assert direction.norm().item() == pytest.approx(1)
    assert feature_variation(rows, targets, places, bandwidth=0.35, direction=direction).shape == (1,)


def test_the_rule_by_hand():
    accuracies = torch.tensor([0.90, 0.86, 0.70, 0.88, 0.85]).double()
    variations = torch.tensor([0.60, 0.10, 0.00, math.nan, 0.50]).double()
    picked = select_ood(accuracies, variations)
    weight = np.std([0.90, 0.86, 0.85]) / np.std([0.60, 0.10, 0.50])
    assert picked.weight == pytest.approx(weight)
    assert picked.kept.tolist() == [True, True, False, False, True]
    expected = [a - weight * v for a, v in zip(accuracies.tolist(), variations.tolist())]
    assert picked.scores[[0, 1, 2, 4]].tolist() == pytest.approx([expected[i] for i in (0, 1, 2, 4)])
    assert picked.scores[3] == -math.inf
    assert picked.index == 1


def test_scaling_all_variations_changes_no_score():
    accuracies, variations = torch.tensor([0.9, 0.85, 0.87]), torch.tensor([0.5, 0.2, 0.4])
    once, thrice = select_ood(accuracies, variations), select_ood(accuracies, 3 * variations)
    assert once.index == thrice.index
    torch.testing.assert_close(once.scores, thrice.scores)


def test_equal_variations_leave_it_to_accuracy_with_a_warning():
    with pytest.warns(UserWarning, match="accuracy alone"):
        picked = select_ood(torch.tensor([0.8, 0.9, 0.85]), torch.full((3,), 0.3))
    assert picked.index == 1
    assert picked.weight == 0
    with pytest.warns(UserWarning, match="accuracy alone"):
        assert select_ood(torch.tensor([0.9, 0.5]), torch.tensor([0.3, 0.1])).index == 0


def test_ties_go_to_the_lower_variation():
    """One candidate alone sets the weight, 0, so that equal accuracies score the same."""
    with pytest.warns(UserWarning, match="accuracy alone"):
        picked = select_ood(torch.tensor([0.9, 0.9, 0.5]), torch.tensor([0.3, 0.2, 0.1]), margin=0.0)
    assert picked.index == 1


def test_the_expansion_function_is_a_staircase_above_the_diagonal():
    here = torch.tensor([0.1, 0.3, 0.2, 0.05], dtype=torch.float64)
    everywhere = torch.tensor([0.2, 0.5, 0.15, 0.9], dtype=torch.float64)
    tells = torch.tensor([0.9, 0.8, 0.7, 0.1])
    grown = expansion_function(here, everywhere, tells, 0.5)
    assert grown(0.05) == 0.05
    assert grown(0.1) == pytest.approx(0.2)
    assert grown(0.25) == pytest.approx(0.25)
    assert grown(0.4) == pytest.approx(0.5)
    assert grown.slope == pytest.approx(2.0)
    assert grown.is_learnable(0.1)
    every = expansion_function(here, everywhere, tells, 0.0)
    assert all(every(x) >= grown(x) for x in (0.0, 0.07, 0.1, 0.3, 0.6))
    assert not every.is_learnable(0.1)
    with pytest.raises(ValueError, match="informative"):
        expansion_function(here, everywhere, tells, 0.95)
    with pytest.raises(ValueError, match="one length"):
        expansion_function(here[:2], everywhere, tells, 0.5)


class Reads(nn.Module):
    """Its only feature is one of the inputs; its head puts the boundary at zero."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))

    def forward(self, x):
        return self.head(x[:, self.column : self.column + 1])


def test_a_model_that_reads_what_holds_everywhere_is_selected():
    """The first input tells most, but not alike in both domains; the second holds; the third does neither."""
    shifts = torch.zeros(2, 2, 3).double()
    shifts[:, 0, 2], shifts[:, 1, 2] = torch.tensor([-0.8, 0.8]), torch.tensor([-2.2, 2.2])
    shifts[:, 0, 0], shifts[:, 1, 0] = torch.tensor([-1.2, 1.2]), torch.tensor([-4.0, 4.0])
    shifts[:, :, 1] = torch.tensor([[-1.3], [1.3]])
    rows, targets, places = draws(200, shifts)
    loaders = {
        f"domain {e}": [
            (x, y) for x, y in zip(rows[places == e].float().split(50), targets[places == e].split(50))
        ]
        for e in range(2)
    }
    models = {"shortcut": Reads(0), "stable": Reads(1), "neither": Reads(2)}
    picked = select_model(models, loaders)
    assert picked.chosen == "stable"
    assert picked.names == ("shortcut", "stable", "neither")
    with pytest.raises(ValueError, match="nothing to select"):
        select_model({}, loaders)


def test_bad_inputs_are_named():
    rows, targets, places = small()
    with pytest.raises(ValueError, match=r"`domains` holds 1"):
        ood_measures(rows, targets, torch.zeros_like(places))
    with pytest.raises(ValueError, match=r"`targets` holds 1"):
        ood_measures(rows, torch.zeros_like(targets), places)
    with pytest.raises(ValueError, match="agree"):
        ood_measures(rows, targets, places[:-1])
    few = (targets == 1) & (places == 2)
    keep = ~few
    keep[torch.nonzero(few).flatten()[:3]] = True
    with pytest.raises(ValueError, match="class 1 has 3 samples in domain 2"):
        ood_measures(rows[keep], targets[keep], places[keep])
    with pytest.raises(ValueError, match="class 1 has 0 samples in domain 2"):
        ood_measures(rows[~few], targets[~few], places[~few])
    skipped = ood_measures(rows[~few], targets[~few], places[~few], missing="skip")
    assert skipped.variation.isfinite().all()
    with pytest.raises(ValueError, match="bandwidth"):
        ood_measures(rows, targets, places, bandwidth=0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        select_ood(torch.tensor([1.2, 0.5]), torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="all NaN"):
        select_ood(torch.tensor([0.2, 0.5]), torch.full((2,), math.nan))
    with pytest.raises(ValueError, match="agree"):
        select_ood(torch.tensor([0.2, 0.5]), torch.tensor([0.1]))
