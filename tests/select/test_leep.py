"""LEEP and its hard case NCE: identities of the papers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.cases import MeasureCase
from torchard.select.leep import leep
from torchard.select.nce import nce


def draw(seed: int, n: int = 80, classes: int = 3, sources: int = 6, sharp: float = 2.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % classes
    logits = sharp * torch.randn(n, sources, generator=generator).double()
    logits[:, :classes] += 2 * torch.nn.functional.one_hot(targets)
    return logits.softmax(dim=1), targets


def contract_case() -> MeasureCase:
    probabilities, targets = draw(0)
    return MeasureCase(leep, probabilities.float(), targets)


@given(st.integers(0, 10**6))
def test_hard_probabilities_make_leep_equal_nce(seed):
    probabilities, targets = draw(seed)
    labels = probabilities.argmax(dim=1)
    hard = torch.nn.functional.one_hot(labels, 6).double()
    assert leep(hard, targets) == pytest.approx(nce(labels, targets))


@given(st.integers(0, 10**6))
def test_leep_is_above_nce_plus_the_log_confidence(seed):
    probabilities, targets = draw(seed)
    best = probabilities.max(dim=1)
    bound = nce(best.indices, targets) + best.values.log().mean().item()
    assert bound <= leep(probabilities, targets) + 1e-12 <= 1e-12


def test_uninformative_probabilities_give_the_entropy_of_the_targets():
    targets = torch.arange(90) % 3
    same = torch.full((90, 4), 0.25)
    entropy = torch.tensor(3.0).log().item()
    assert leep(same, targets) == pytest.approx(-entropy)
    assert nce(torch.zeros(90, dtype=torch.int64), targets) == pytest.approx(-entropy)


def test_labels_that_decide_the_target_give_zero():
    targets = torch.arange(90) % 3
    assert nce(targets * 4 + 1, targets) == 0
    assert nce(torch.arange(90), targets) == 0


def test_by_hand():
    labels, targets = torch.tensor([0, 0, 0, 5]), torch.tensor([0, 0, 1, 1])
    third = torch.tensor([2 / 3, 2 / 3, 1 / 3, 1.0]).log().mean().item()
    assert nce(labels, targets) == pytest.approx(third)


def test_order_and_names_do_not_matter_and_true_labels_beat_random_ones():
    probabilities, targets = draw(0)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    labels = probabilities.argmax(dim=1)
    assert leep(probabilities[order], targets[order]) == pytest.approx(leep(probabilities, targets))
    assert leep(probabilities, targets * 7 + 1) == pytest.approx(leep(probabilities, targets))
    assert nce(labels[order] + 3, targets[order] * 5) == pytest.approx(nce(labels, targets))
    assert leep(probabilities, targets[order]) < leep(probabilities, targets)
    assert nce(labels, targets[order]) < nce(labels, targets)


def test_a_source_class_of_no_probability_is_left_out():
    probabilities, targets = draw(0)
    padded = torch.cat([probabilities, torch.zeros(80, 2)], dim=1)
    assert leep(padded, targets) == pytest.approx(leep(probabilities, targets))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.tensor([[0.5, 0.6], [0.5, 0.5]]), "sums to 1"),
        (torch.tensor([[1.5, -0.5], [0.5, 0.5]]), "negative"),
        (torch.tensor([[float("nan"), 1.0], [0.5, 0.5]]), "NaN"),
        (torch.tensor([0.5, 0.5]), "shape"),
        (torch.full((3, 2), 0.5), "agree"),
    ],
    ids=["sum", "negative", "nan", "shape", "length"],
)
def test_what_is_no_probability_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        leep(probabilities, torch.tensor([0, 1]))


def test_nce_refuses_other_lengths_and_one_class():
    with pytest.raises(ValueError, match="agree"):
        nce(torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="single class"):
        nce(torch.tensor([0, 1]), torch.tensor([1, 1]))
