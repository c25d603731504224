"""Score a source classifier by how much its labels tell of the target's (NCE)."""

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_class_ids, compact

METHOD = Method(
    shapes=("measure",),
    source="Tran, Nguyen and Hassner, ICCV 2019, arXiv 1908.08142",
    claim="Negative conditional entropy between label sequences predicts how well tasks transfer.",
)


def nce(source_labels: Array, targets: Array) -> float:
    """Return −H(target | source label) in nats; 0 if the source label decides the target, else below.

    Tran et al. 2019. ``source_labels`` are the class ids the pre-trained classifier gives the
    samples, its most probable ones. O(n) time.

    Raises:
        ValueError: if the lengths differ, either holds no class ids, or there is a single target class.
        TypeError: if either is complex or text.
    """
    ids = checked_class_ids(targets, len(targets))
    sources = checked_class_ids(source_labels, len(ids))
    return _negative_conditional_entropy(torch.unique(sources, return_inverse=True)[1], compact(ids))


def _negative_conditional_entropy(sources: Tensor, ids: Tensor) -> float:
    classes = int(ids.max()) + 1
    joint = torch.bincount(sources * classes + ids, minlength=(int(sources.max()) + 1) * classes)
    joint = joint.view(-1, classes).double() / len(ids)
    conditional = joint / joint.sum(dim=1, keepdim=True)
    return torch.special.xlogy(joint, conditional).sum().item()
