"""Score features by leave-one-out accuracy of their nearest neighbours (k-NN)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Cover and Hart, IEEE Trans. Inf. Theory 13(1), 1967",
    claim="Nearest-neighbour error is at most twice the best possible error, with ever more samples.",
)

Metric = Literal["l2", "cosine"]
BLOCK = 2048


def knn_score(features: Array, targets: Array, *, k: int = 5, metric: Metric = "l2") -> float:
    """Return the share of samples whose ``k`` nearest other samples vote for their class; higher is better.

    Cover and Hart 1967. A tie goes to the class with the nearest of the tied neighbours. O(n² d) time,
    in blocks of 2048 rows.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or unless 1 ≤ ``k`` < n.
        TypeError: if either is complex or text.
    """
    return knn_hits(features, targets, k=k, metric=metric).mean().item()


def knn_hits(features: Array, targets: Array, *, k: int = 5, metric: Metric = "l2") -> Tensor:
    """Return 1 for each sample its neighbours classify rightly, else 0; the mean is :func:`knn_score`.

    Raises:
        ValueError, TypeError: as :func:`knn_score`.
    """
    rows, ids = checked_task(features, targets)
    if not 1 <= k < len(rows):
        raise ValueError(f"`k={k}` must lie between 1 and {len(rows) - 1}, one less than the samples.")
    rows = F.normalize(rows) if metric == "cosine" else rows - rows.mean(dim=0)
    blocks = [_block_hits(rows, ids, start, k) for start in range(0, len(rows), BLOCK)]
    return torch.cat(blocks)


def _block_hits(rows: Tensor, ids: Tensor, start: int, k: int) -> Tensor:
    block = rows[start : start + BLOCK]
    own = torch.arange(start, start + len(block))
    # squared distance without the block's own norm, which does not change the order along a row
    distance = rows.square().sum(dim=1) - 2 * block @ rows.T
    distance[torch.arange(len(block)), own] = torch.inf
    neighbours = ids[distance.topk(k, largest=False).indices]
    # a vote counts 1, and a share that halves with each step away, all shares together below 1
    votes = 1 + 0.5 ** torch.arange(1, k + 1, dtype=torch.float64)
    tally = torch.zeros(len(block), int(ids.max()) + 1, dtype=torch.float64)
    tally.scatter_add_(1, neighbours, votes.expand(len(block), k).contiguous())
    return (tally.argmax(dim=1) == ids[own]).double()
