"""Score features by how far apart class means lie in their own covariance (H-score)."""

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Bao et al., ICIP 2019; Ibrahim et al., ECML 2022, arXiv 2110.06893 (shrinkage)",
    claim="A closed form of inter-class variance against redundancy follows transfer accuracy.",
)


def h_score(features: Array, targets: Array, *, shrinkage: bool = False) -> float:
    """Return tr(cov(features)⁺ cov(class means)); from 0 to min(d, classes − 1), higher is better.

    Bao et al. 2019; unchanged by any invertible affine map of the features. With fewer
    samples than features it approaches its maximum whatever they are: use ``shrinkage=True``, which takes
    the covariance of Ledoit and Wolf (Ibrahim et al. 2022). O(n d min(n, d)) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`.
        TypeError: if either is complex or text.
    """
    rows, ids = checked_task(features, targets)
    rows = rows - rows.mean(dim=0)
    means = _scaled_class_means(rows, ids)
    if shrinkage:
        return _shrunk_trace(rows, means, float(ledoit_wolf_shrinkage(rows.numpy(), assume_centered=True)))
    return _trace(rows, means)


def _scaled_class_means(rows: Tensor, ids: Tensor) -> Tensor:
    """M (k, d) with MᵀM the covariance of the class means, each sample replaced by its class's."""
    counts = torch.bincount(ids).double()
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, ids, rows)
    return sums / (counts * (len(rows) - 1)).sqrt()[:, None]


def _trace(rows: Tensor, means: Tensor) -> float:
    """Σ m ᵀ C⁺ m by the singular vectors of the features, whichever way they are long."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    keep = singular > max(rows.shape) * torch.finfo(torch.float64).eps * singular[:1]
    along = means @ directions[keep].T / singular[keep] * (len(rows) - 1) ** 0.5
    return along.square().sum().item()


def _shrunk_trace(rows: Tensor, means: Tensor, share: float) -> float:
    n, d = rows.shape
    floor = share * rows.square().sum().item() / (n * d)
    if floor == 0 or share == 1:  # constant features, or nothing left of the covariance
        return 0.0
    if d <= n:
        covariance = (1 - share) / n * rows.T @ rows + floor * torch.eye(d, dtype=torch.float64)
        solved = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance))
        return (1 - share) * (means.T * solved).sum().item()
    # Woodbury: with more features than samples only an (n, n) system is solved.
    inner = rows @ rows.T + floor * n / (1 - share) * torch.eye(n, dtype=torch.float64)
    seen = rows @ means.T
    inside = (seen * torch.cholesky_solve(seen, torch.linalg.cholesky(inner))).sum().item()
    return (1 - share) * (means.square().sum().item() - inside) / floor
