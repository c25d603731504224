"""Score features by how much shorter a code for them gets once the classes are known (TransRate)."""

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Huang et al., ICML 2022, arXiv 2106.09362",
    claim="The coding rate's estimate of mutual information of features and labels ranks models and layers.",
)


def transrate(features: Array, targets: Array, *, eps: float = 1e-4) -> float:
    """Return the coding rate of the features less the mean rate within classes, in nats; higher is better.

    Huang et al. 2022: ``R(X) − Σ p_c R(X_c)`` with ``R(Z) = ½ ln det(I + ZᵀZ / (n eps))`` on features
    centred together. Never below 0. Rotations change nothing, the scale of the features does. O(n d
    min(n, d)) time. Their code listing averages over classes; this is the text, equal for balanced ones.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or if ``eps`` is not positive.
        TypeError: if either is complex or text.
    """
    if eps <= 0:
        raise ValueError(f"`eps={eps}` must be positive; it is the squared distortion of the code.")
    rows, ids = checked_task(features, targets)
    return rate_reduction(rows - rows.mean(dim=0), ids, eps)


def rate_reduction(rows: Tensor, ids: Tensor, eps: float) -> float:
    """Return the coding rate of ``rows`` less the mean rate within the classes ``ids``."""
    within = sum(
        len(members) / len(rows) * coding_rate(members, eps)
        for members in (rows[ids == label] for label in range(int(ids.max()) + 1))
    )
    return coding_rate(rows, eps) - within


def coding_rate(rows: Tensor, eps: float) -> float:
    """Return ``½ ln det(I + rowsᵀ rows / (n eps))`` by the smaller of the two Gram matrices."""
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    inner = torch.eye(len(gram), dtype=rows.dtype) + gram / (len(rows) * eps)
    return torch.linalg.cholesky(inner).diagonal().log().sum().item()
