"""Class means, principal components and spans of features: what several scorers are made of."""

import torch
from torch import Tensor


def class_means(rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each class (k, d) and the number of its samples (k,)."""
    counts = torch.bincount(ids).to(rows.dtype)
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, ids, rows)
    return sums / counts[:, None], counts


def on_span(rows: Tensor) -> Tensor:
    """Return ``rows`` turned so that no more than n coordinates are needed; all inner products are kept."""
    if rows.shape[1] <= rows.shape[0]:
        return rows
    left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
    return left * singular


def principal(rows: Tensor, *, dims: int | None = None, energy: float = 1.0) -> Tensor:
    """Return the leading principal coordinates: at most ``dims``, with a share ``energy`` of the variance."""
    left, singular, _ = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    shares = singular.square().cumsum(0) / singular.square().sum().clamp(min=1e-300)
    enough = int((shares < energy - 1e-12).sum()) + 1
    keep = min(enough, dims or len(singular), len(singular))
    return left[:, :keep] * singular[:keep]


def by_length(rows: Tensor) -> Tensor:
    """Return an order of the samples that does not depend on the one they come in: by their norm."""
    return torch.argsort(rows.square().sum(dim=1), stable=True)
