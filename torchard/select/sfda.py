"""Score features by a Fisher discriminant that is told what it finds easy (SFDA)."""

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import class_means, on_span
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Shao et al., ECCV 2022, arXiv 2207.03036",
    claim="Regularised Fisher discriminants with harder samples rank models, self-supervised ones too.",
)


def sfda(features: Array, targets: Array, *, strength: float = 1.0) -> float:
    """Return the mean log-probability of the true classes after pulling doubtful samples away; at most 0.

    Shao et al. 2022: a Fisher discriminant whose within-class covariance is mixed with the identity by
    ``exp(−strength · its largest eigenvalue)``; each sample is then moved from its own class towards the
    mean of the others as far as it was doubted, and the discriminant is fitted again. The constant of the
    exponent is from memory. O(n d min(n, d)) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`.
        TypeError: if either is complex or text.
    """
    rows, ids = checked_task(features, targets)
    rows = on_span(rows - rows.mean(dim=0))
    confidence = _log_probabilities(rows, ids, strength).exp()
    means, _ = class_means(rows, ids)
    others = (means.sum(dim=0) - means) / (len(means) - 1)
    mixed = confidence[:, None] * rows + (1 - confidence)[:, None] * others[ids]
    return _log_probabilities(mixed, ids, strength).mean().item()


def _log_probabilities(rows: Tensor, ids: Tensor, strength: float) -> Tensor:
    """Log-probability of each sample's own class under the regularised discriminant."""
    means, counts = class_means(rows, ids)
    shares = counts / len(rows)
    inner = rows - means[ids]
    within = inner.T @ inner / len(rows)
    share = torch.exp(-strength * torch.linalg.eigvalsh(within)[-1])
    within = (1 - share) * within + share * torch.eye(len(within), dtype=rows.dtype)
    directions = _fisher_directions(means - shares @ means, shares, within)
    projected, centres = rows @ directions, means @ directions
    logits = projected @ centres.T - centres.square().sum(dim=1) / 2 + shares.log()
    return logits.log_softmax(dim=1)[torch.arange(len(ids)), ids]


def _fisher_directions(means: Tensor, shares: Tensor, within: Tensor) -> Tensor:
    """Generalised eigenvectors of (between, within), at most k − 1, with unit within-class variance.

    The between-class covariance has the rank of the class means, so a (k, k) problem holds them all.
    """
    scaled = means * shares.sqrt()[:, None]
    # A ridge far below the variances: without it features that are constant within classes divide by zero.
    ridge = 1e-10 * within.diagonal().mean().clamp(min=1e-300) * torch.eye(len(within), dtype=within.dtype)
    solved = torch.cholesky_solve(scaled.T, torch.linalg.cholesky(within + ridge))
    values, vectors = torch.linalg.eigh(scaled @ solved)
    keep = values > 1e-10 * values[-1:].clamp(min=1e-300)
    return solved @ vectors[:, keep] / values[keep].sqrt()
