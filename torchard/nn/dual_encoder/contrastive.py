"""The loss that brings matching images and texts together."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def contrastive_loss(
    similarity: Float[Tensor, "n m"], positives: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean of the cross entropies over rows and over columns of a matrix of scaled similarities.

    Radford et al. 2021. ``positives`` marks every matching pair; where several match, the target is spread
    evenly over them, since a caption that occurs twice in a batch fits both images. Without it the diagonal
    matches. A constant matrix gives ``ln n``.

    Raises:
        ValueError: if the matrix is not square and ``positives`` is missing, or a row or column has no match.
    """
    if positives is None:
        if similarity.shape[0] != similarity.shape[1]:
            raise ValueError(
                f"`similarity` is {tuple(similarity.shape)}; without `positives` it must be square, with "
                "matching pairs on the diagonal."
            )
        positives = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    if not bool(positives.any(dim=1).all() and positives.any(dim=0).all()):
        raise ValueError("`positives` has a row or a column without a match.")
    return (_cross_entropy(similarity, positives) + _cross_entropy(similarity.T, positives.T)) / 2


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
