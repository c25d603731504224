"""Score features by the cross-validated accuracy of logistic regression on them (linear probe)."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import on_span
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Alain and Bengio, 2016, arXiv 1610.01644; Kornblith et al., CVPR 2019, arXiv 1805.08974",
    claim="Accuracy of a linear classifier on frozen features goes along with accuracy after fine-tuning.",
)

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)


def linear_probe(features: Array, targets: Array, *, folds: int = 5, seed: int = 0) -> float:
    """Return the accuracy of L2-regularised logistic regression over ``folds`` folds; higher is better.

    Features are standardised and turned onto their span, which changes nothing but the time. The inverse
    strength is the best of ``STRENGTHS`` over all folds, so the figure is slightly kind. Seven fits a fold.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or if a class has fewer samples than folds.
        TypeError: if either is complex or text.
    """
    return linear_probe_hits(features, targets, folds=folds, seed=seed).mean().item()


def linear_probe_hits(features: Array, targets: Array, *, folds: int = 5, seed: int = 0) -> Tensor:
    """Return 1 for each sample classified rightly while its fold was held out, else 0.

    Raises:
        ValueError, TypeError: as :func:`linear_probe`.
    """
    rows, ids = checked_task(features, targets)
    fewest = int(torch.bincount(ids).min())
    if folds < 2 or fewest < folds:
        raise ValueError(
            f"`folds={folds}` must lie between 2 and {fewest}, the samples of the smallest class."
            if fewest > 1
            else "`targets` has a class with a single sample, which cannot be both fitted and held out."
        )
    inputs, labels = _whitened_span(rows).numpy(), ids.numpy()
    dealt = _folds(inputs, labels, folds, seed)
    hits = np.zeros((len(STRENGTHS), len(labels)))
    for fold in range(folds):
        fit, held = dealt != fold, dealt == fold
        for i, strength in enumerate(STRENGTHS):
            model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(inputs[fit], labels[fit])
            hits[i, held] = model.predict(inputs[held]) == labels[held]
    return torch.from_numpy(hits[hits.mean(axis=1).argmax()])


def _folds(inputs: np.ndarray, labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each sample: its class's share in every fold, whatever the order of the samples.

    Within a class samples are dealt by the length of their features, in groups of shuffled folds.
    """
    length = np.square(inputs).sum(axis=1)
    dealt = np.empty(len(labels), dtype=np.int64)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        generator = np.random.default_rng(seed)
        rounds = [generator.permutation(folds) for _ in range(-(-len(members) // folds))]
        dealt[members[np.argsort(length[members])]] = np.concatenate(rounds)[: len(members)]
    return dealt


def _whitened_span(rows: Tensor) -> Tensor:
    """Standardised features, turned so that none is needed beyond their rank; distances are kept."""
    rows = rows - rows.mean(dim=0)
    spread = rows.std(dim=0, correction=0)
    rows = rows / torch.where(spread > 1e-12 * spread.max().clamp(min=1e-300), spread, torch.inf)
    return on_span(rows)
