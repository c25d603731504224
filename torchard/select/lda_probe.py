"""Score features by the leave-one-out likelihood of a shrunk linear discriminant (LDA probe)."""

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import class_means, on_span
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Fisher, Annals of Eugenics 7(2), 1936; Ledoit and Wolf, J. Multivariate Analysis 88(2), 2004",
    claim="Ours: an honest likelihood of held-out labels in closed form, at the price of one matrix inverse.",
)


def lda_probe(features: Array, targets: Array) -> float:
    """Return the mean log-probability of each sample's class by a discriminant fitted on all others.

    A linear discriminant with the within-class covariance of Ledoit and Wolf; leaving out a sample changes
    it by one rank, so no refit is needed (the amount of shrinkage and the class shares stay). At most 0.
    Samples that are alone in their class are not asked about. O(n d min(n, d)) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or if no class has two samples.
        TypeError: if either is complex or text.
    """
    return lda_terms(features, targets).mean().item()


def lda_terms(features: Array, targets: Array) -> Tensor:
    """Return each sample's log-probability left out, (m,), for those that are not alone in their class.

    Raises:
        ValueError, TypeError: as :func:`lda_probe`.
    """
    rows, ids = checked_task(features, targets)
    shrinkage = _shrinkage(rows, ids)
    rows = on_span(rows - rows.mean(dim=0))
    means, counts = class_means(rows, ids)
    asked = counts[ids] > 1
    if not bool(asked.any()):
        raise ValueError("`targets` has one sample of each class; at least one class needs two.")
    own = rows - means[ids]
    inverse, weight = _precision(own, shrinkage)
    asked_rows, asked_ids = own[asked], ids[asked]
    distances = _left_out_distances(rows[asked], asked_rows, asked_ids, means, counts, inverse, weight)
    logits = (counts / len(rows)).log() - distances / 2
    return logits.log_softmax(dim=1)[torch.arange(len(asked_ids)), asked_ids]


def lda_in_sample(rows: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability of each sample's class by the discriminant fitted on all, it included."""
    shrinkage = _shrinkage(rows, ids)
    rows = on_span(rows - rows.mean(dim=0))
    means, counts = class_means(rows, ids)
    inverse, _ = _precision(rows - means[ids], shrinkage)
    projected = means @ inverse
    logits = rows @ projected.T - (projected * means).sum(dim=1) / 2 + (counts / len(rows)).log()
    return logits.log_softmax(dim=1)[torch.arange(len(ids)), ids]


def _shrinkage(rows: Tensor, ids: Tensor) -> tuple[float, float]:
    """Ledoit and Wolf's share of the identity in the within-class covariance, and the identity's scale."""
    residuals = rows - class_means(rows, ids)[0][ids]
    share = max(float(ledoit_wolf_shrinkage(residuals.numpy(), assume_centered=True)), 1e-6)
    return share, max(residuals.square().mean().item(), 1e-300)


def _precision(residuals: Tensor, shrinkage: tuple[float, float]) -> tuple[Tensor, float]:
    """Inverse of the shrunk within-class covariance, and the weight with which each residual enters it."""
    share, scale = shrinkage
    weight = (1 - share) / len(residuals)
    identity = torch.eye(residuals.shape[1], dtype=residuals.dtype)
    covariance = weight * residuals.T @ residuals + share * scale * identity
    return torch.cholesky_inverse(torch.linalg.cholesky(covariance)), weight


def _left_out_distances(
    rows: Tensor,
    residuals: Tensor,
    ids: Tensor,
    means: Tensor,
    counts: Tensor,
    inverse: Tensor,
    weight: float,
) -> Tensor:
    """Squared Mahalanobis distance of each sample to each class mean, mean and covariance without it."""
    size = counts[ids]
    lifted = residuals @ inverse
    leverage = weight * size / (size - 1) * (lifted * residuals).sum(dim=1)
    to_means = rows @ inverse @ means.T
    plain = (
        (rows @ inverse * rows).sum(dim=1)[:, None] - 2 * to_means + ((means @ inverse) * means).sum(dim=1)
    )
    across = (lifted * rows).sum(dim=1)[:, None] - lifted @ means.T
    # Sherman and Morrison, for the covariance less what this sample put into it
    gain = (weight * size / (size - 1) / (1 - leverage))[:, None]
    distances = plain + gain * across.square()
    stretch = (size / (size - 1)).square()
    own = torch.arange(len(ids))
    distances[own, ids] = stretch * distances[own, ids]
    return distances
