import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from torchard.core.data import class_weights, metrics

CLASSES = ("a", "b", "c")


def sample(seed: int, count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, classes, generator=generator)
    return outputs, torch.randint(classes, (count,), generator=generator)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), classes=st.integers(2, 4))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, on classes answered that never occur
def test_measures_equal_those_of_scikit_learn(seed, count, classes):
    outputs, targets = sample(seed, count, classes)
    answers, truth = outputs.argmax(1).numpy(), targets.numpy()
    result = metrics(outputs, targets, classes=[str(index) for index in range(classes)])
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, answers))
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, answers))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(truth, answers, average="macro"))
    expected = reference.confusion_matrix(truth, answers, labels=range(classes))
    assert result["confusion"] == expected.tolist()


def test_auroc_of_two_classes_is_the_share_of_pairs_in_order():
    outputs, targets = sample(1, 50, 2)
    scores = (outputs[:, 1] - outputs[:, 0]).double()
    pairs = scores[targets == 1][:, None] - scores[targets == 0][None, :]
    expected = ((pairs > 0).double() + (pairs == 0) / 2).mean().item()
    assert metrics(outputs, targets, classes=("no", "yes"))["auroc"] == pytest.approx(expected)


def test_auroc_of_many_classes_is_the_mean_of_one_against_rest():
    outputs, targets = sample(2, 60, 3)
    probabilities = outputs.double().softmax(1).numpy()
    expected = reference.roc_auc_score(targets.numpy(), probabilities, multi_class="ovr", average="macro")
    assert metrics(outputs, targets, classes=CLASSES)["auroc"] == pytest.approx(expected)


def test_auroc_is_none_where_one_class_occurs():
    outputs, _ = sample(3, 4, 3)
    assert metrics(outputs, torch.zeros(4).long(), classes=CLASSES)["auroc"] is None


def test_probabilities_measure_like_their_logits():
    outputs, targets = sample(4, 40, 3)
    assert metrics(outputs, targets, classes=CLASSES) == metrics(
        outputs.double().softmax(1), targets, classes=CLASSES
    )


@given(order=st.permutations(range(20)))
@settings(max_examples=20, deadline=None)
def test_measures_do_not_depend_on_the_order_of_samples(order):
    outputs, targets = sample(5, 20, 3)
    groups = ["x" if row % 3 else "y" for row in range(20)]
    shuffled = metrics(
        outputs[list(order)], targets[list(order)], classes=CLASSES, groups=[groups[row] for row in order]
    )
    assert json.dumps(shuffled) == json.dumps(metrics(outputs, targets, classes=CLASSES, groups=groups))


def test_groups_are_measured_as_if_alone():
    outputs, targets = sample(6, 30, 3)
    groups = ["left" if row < 12 else "right" for row in range(30)]
    per_group = metrics(outputs, targets, classes=CLASSES, groups=groups)["per_group"]
    alone = metrics(outputs[:12], targets[:12], classes=CLASSES)
    assert per_group["left"]["count"] == 12
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
        assert per_group["left"][name] == alone[name]


def test_per_class_values_and_their_absence():
    outputs = torch.eye(3)[[0, 0, 1]]
    result = metrics(outputs, torch.tensor([0, 1, 1]), classes=CLASSES)["per_class"]
    assert result["a"] == {"count": 1, "recall": 1.0, "precision": 0.5, "f1": pytest.approx(2 / 3)}
    assert result["b"] == {"count": 2, "recall": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3)}
    assert result["c"] == {"count": 0, "recall": None, "precision": None, "f1": None}


def test_the_result_is_plain_json():
    outputs, targets = sample(7, 9, 3)
    result = metrics(outputs, targets, classes=CLASSES, groups=["g"] * 9)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), "empty"),
        (torch.zeros(1, 2), torch.zeros(1).long(), "2 columns for 3 classes"),
        (torch.zeros(1, 3), torch.tensor([3]), r"must lie in 0…2"),
        (torch.zeros(1, 3), torch.tensor([-1]), r"must lie in 0…2"),
        (torch.full((1, 3), np.nan), torch.zeros(1).long(), "NaN"),
        (torch.full((1, 3), np.inf), torch.zeros(1).long(), "NaN"),
    ],
)
def test_what_cannot_be_measured_is_refused(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        metrics(outputs, targets, classes=CLASSES)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_class_weights_balance_the_classes_that_occur(targets):
    numbers = torch.tensor(targets)
    weights = class_weights(numbers, 5)
    totals = torch.zeros(5).index_add(0, numbers, weights[numbers])
    present = numbers.bincount(minlength=5) > 0
    torch.testing.assert_close(totals[present], totals[present].mean().expand(int(present.sum())))
    assert float(weights[numbers].mean()) == pytest.approx(1, abs=1e-5)
    assert bool((weights[~present] == 0).all())
