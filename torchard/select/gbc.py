"""Score features by how little the classes overlap as Gaussians (GBC)."""

from typing import Literal

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import class_means, principal
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Pándy et al., CVPR 2022, arXiv 2111.12780",
    claim="The Bhattacharyya overlap of classes in feature space predicts accuracy, also in segmentation.",
)

Covariance = Literal["diagonal", "spherical"]
FLOOR = 1e-3  # of the mean variance over all features; a class of one sample has none of its own


def gbc(features: Array, targets: Array, *, covariance: Covariance = "diagonal", dims: int = 64) -> float:
    """Return minus the summed Bhattacharyya coefficients of all pairs of classes; 0 is no overlap.

    Pándy et al. 2022, each class one Gaussian in the first ``dims`` principal components, counted
    both ways round as there. Between −(k² − k), all alike, and 0. O(n d min(n, d) + k² dims) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or if ``dims`` is below 1.
        TypeError: if either is complex or text.
    """
    if dims < 1:
        raise ValueError(f"`dims={dims}` must be at least 1.")
    rows, ids = checked_task(features, targets)
    rows = principal(rows, dims=dims)
    means, counts = class_means(rows, ids)
    squares = torch.zeros_like(means).index_add_(0, ids, (rows - means[ids]).square())
    variances = squares / counts[:, None]
    if covariance == "spherical":
        variances = variances.mean(dim=1, keepdim=True).expand_as(means)
    floor = FLOOR * rows.var(dim=0, correction=0).mean().clamp(min=1e-300)
    return -_overlap(means, variances + floor)


def _overlap(means: Tensor, variances: Tensor) -> float:
    """Sum of exp(−distance) over ordered pairs of classes, one row of pairs at a time."""
    total = 0.0
    for mean, variance in zip(means, variances, strict=True):
        middle = (variance + variances) / 2
        apart = ((mean - means).square() / middle).sum(dim=1) / 8
        shape = (middle.log() - (variance.log() + variances.log()) / 2).sum(dim=1) / 2
        total += (-(apart + shape)).exp().sum().item()
    return total - len(means)  # each class with itself overlaps wholly
