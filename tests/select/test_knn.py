"""Nearest neighbours against scikit-learn, and ties by hand."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from tests.contracts.cases import MeasureCase
from torchard.select import knn
from torchard.select.knn import knn_hits, knn_score


def task(n: int = 60, classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (n,), generator=generator)
    means = torch.randn(classes, 5, generator=generator)
    return means[targets] + torch.randn(n, 5, generator=generator), targets


def contract_case() -> MeasureCase:
    rows, targets = task(61, 3)
    return MeasureCase(knn_score, rows, targets)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 2048])
def test_equals_leave_one_out_of_scikit_learn(metric, k, block, monkeypatch):
    monkeypatch.setattr(knn, "BLOCK", block)
    rows, targets = task()
    reference = KNeighborsClassifier(k, metric="euclidean" if metric == "l2" else "cosine", algorithm="brute")
    predicted = cross_val_predict(reference, rows.numpy(), targets.numpy(), cv=LeaveOneOut())
    hits = knn_hits(rows, targets, k=k, metric=metric)
    np.testing.assert_array_equal(hits.numpy(), predicted == targets.numpy())


def test_a_tie_goes_to_the_nearest():
    rows = torch.tensor([[0.0], [1.0], [2.1], [3.5], [9.0]])
    # around 0: classes 1, 0 at equal votes for k=2; the nearest is 1
    targets = torch.tensor([1, 1, 0, 0, 0])
    assert knn_hits(rows, targets, k=2).tolist() == [1, 1, 0, 1, 1]
    assert knn_score(rows, targets, k=2) == 0.8


@pytest.mark.parametrize("k", [0, 60, -1])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match="between 1 and 59"):
        knn_score(*task(), k=k)
