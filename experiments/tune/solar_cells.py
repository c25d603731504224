"""Clear cases among the monocrystalline solar cells, whole in memory, and a plain loop to train on them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchard import hub
from torchard.core.data import class_weights, load_task, metrics, tensors

MODEL = "tf_efficientnet_lite0"
CLASSES = ("functional", "defective")


@dataclass(frozen=True)
class Cells:
    """Images as the model reads them; defective means a probability of at least ⅔, functional of 0."""

    images: Tensor
    targets: Tensor

    def subset(self, indices: Tensor) -> "Cells":
        """Return the cells at ``indices``."""
        return Cells(self.images[indices], self.targets[indices])


@dataclass(frozen=True)
class Draw:
    """One random division: few cells to train on, some to choose settings by, all others to test on."""

    train: Cells
    validation: Cells
    test: Cells


def load_cells(size: int = 96, model: str = MODEL) -> Cells:
    """Return all monocrystalline cells but the doubtful third (probability ⅓)."""
    task, spec = load_task("elpv:mono"), hub.input_spec(model, size)
    parts = [task.train, task.validation, task.test]
    images = torch.cat([tensors(part, spec) for part in parts])
    defect = torch.cat([part.soft_targets[:, 1] for part in parts if part.soft_targets is not None])
    clear = (defect < 0.1) | (defect > 0.6)
    return Cells(images[clear], (defect[clear] > 0.6).long())


def draw(cells: Cells, seed: int, *, train: int, validation: int, test: int | None = None) -> Draw:
    """Return a division in which both classes keep their share."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(cells.targets), generator=generator)
    # Sorted by rank within the class over the class's size, any beginning has the classes in proportion.
    targets = cells.targets[order]
    rank = torch.empty(len(order))
    for label in range(len(CLASSES)):
        members = torch.nonzero(targets == label).flatten()
        rank[members] = (torch.arange(len(members)) + 0.5) / len(members)
    order = order[rank.argsort(stable=True)]
    end = None if test is None else train + validation + test
    first, second, third = order[:train], order[train : train + validation], order[train + validation : end]
    return Draw(cells.subset(first), cells.subset(second), cells.subset(third))


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class scores in eval mode, batch by batch."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(64)])


def balanced_accuracy(scores: Tensor, targets: Tensor) -> float:
    """Return the mean recall of the two classes, in percent; NaN where training blew up."""
    if not scores.isfinite().all():
        return math.nan
    return 100 * float(metrics(scores, targets, classes=CLASSES)["balanced_accuracy"])


def train(
    model: nn.Module,
    cells: Cells,
    parameters: Iterable[dict[str, object]] | Iterable[nn.Parameter],
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    seed: int,
    prepare: Callable[[nn.Module], object] = lambda model: None,
) -> list[float]:
    """Train by AdamW with warm-up and cosine decay on class-balanced cross entropy; return every step's loss.

    ``prepare`` is called after each ``model.train()``.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)  # type: ignore[arg-type]
    steps = epochs * math.ceil(len(cells.targets) / batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step / steps))
    weights = class_weights(cells.targets, len(CLASSES))
    generator = torch.Generator().manual_seed(seed)
    model.train()
    prepare(model)
    losses = []
    for _ in range(epochs):
        for indices in torch.randperm(len(cells.targets), generator=generator).split(batch_size):
            loss = cross_entropy(model(cells.images[indices]), cells.targets[indices], weight=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses


def _factor(fraction: float) -> float:
    return min(1.0, (fraction + 0.01) / 0.1) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
