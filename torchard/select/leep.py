"""Score a source classifier by the likelihood of targets given its soft answers (LEEP)."""

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_class_ids, checked_probabilities, compact

METHOD = Method(
    shapes=("measure",),
    source="Nguyen et al., ICML 2020, arXiv 2002.12462",
    claim="Predicts transfer from one pass of a source classifier, also with few or unbalanced data.",
)


def leep(source_probs: Array, targets: Array) -> float:
    """Return the mean log-likelihood of ``targets`` under a classifier made from source probabilities.

    Nguyen et al. 2020: the target is drawn by way of a source class drawn from ``source_probs``
    (n, s). Never above 0; higher is better. With hard source labels it is :func:`torchard.select.nce.nce`.
    O(n s) time.

    Raises:
        ValueError: if the probabilities are negative or do not sum to 1 within 0.001, the lengths differ,
            or there are fewer than 2 samples or classes.
        TypeError: if either is complex or text.
    """
    return leep_terms(source_probs, targets).mean().item()


def leep_terms(source_probs: Array, targets: Array) -> Tensor:
    """Return each sample's log-likelihood, (n,); the mean is :func:`leep`.

    Raises:
        ValueError, TypeError: as :func:`leep`.
    """
    probabilities = checked_probabilities(source_probs)
    ids = compact(checked_class_ids(targets, len(probabilities)))
    probabilities = probabilities[:, probabilities.sum(dim=0) > 0]
    joint = probabilities.new_zeros(int(ids.max()) + 1, probabilities.shape[1])
    joint.index_add_(0, ids, probabilities)
    conditional = joint / joint.sum(dim=0)
    return torch.linalg.vecdot(conditional[ids], probabilities).log()
