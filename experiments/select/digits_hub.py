"""A hub of eleven small networks that saw MNIST in eleven ways, and how each fine-tunes on other digits.

MNIST is padded and pooled to the 8 × 8 pixels of scikit-learn's digits, so that features can transfer.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.core.data import load_task, uint8_images
from torchard.core.data.task import Task
from torchard.core.features import extract
from torchard.select.scorers import Look

FEATURES = 64
TARGET_SAMPLES = 150


@dataclass(frozen=True)
class Recipe:
    """How a network of the hub comes to be: its blocks' widths, its epochs, what became of its labels."""

    widths: tuple[int, ...] = (32, FEATURES)
    epochs: int = 4
    relabel: Callable[[Tensor, torch.Generator], Tensor] = lambda labels, generator: labels


def noisy(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return a function that replaces ``share`` of the labels by random ones."""

    def relabel(labels: Tensor, generator: torch.Generator) -> Tensor:
        random = torch.randint(10, labels.shape, generator=generator)
        return torch.where(torch.rand(labels.shape, generator=generator) < share, random, labels)

    return relabel


HUB = {
    "random init": Recipe(epochs=0),
    "1 epoch": Recipe(epochs=1),
    "4 epochs": Recipe(),
    "deeper": Recipe(widths=(32, 48, FEATURES)),
    "wider": Recipe(widths=(64, FEATURES)),
    "narrow": Recipe(widths=(8, FEATURES)),
    "50 % label noise": Recipe(relabel=noisy(0.5)),
    "90 % label noise": Recipe(relabel=noisy(0.9)),
    "100 % label noise": Recipe(relabel=noisy(1.0)),
    "parity": Recipe(relabel=lambda labels, generator: labels % 2),
    "five or more": Recipe(relabel=lambda labels, generator: (labels >= 5).long()),
}


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) in 0…1 and their digits."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor) -> "Digits":
        return Digits(self.images[rows], self.labels[rows])


def load_digits(name: str) -> Digits:
    """Return all of ``"mnist"`` or ``"digits"`` at 8 × 8 pixels."""
    task = load_task(name)
    images = torch.cat([_grey(task, part) for part in task.splits])
    if images.shape[-1] == 28:
        images = F.avg_pool2d(F.pad(images, (2, 2, 2, 2)), 4)
    labels = torch.cat([split.targets for split in task.splits.values()])
    return Digits(images / images.amax(), labels)


def pretrain(recipe: Recipe, source: Digits, seed: int) -> nn.Sequential:
    """Return a network trained on ``source`` by ``recipe``: blocks of convolution, and a linear head."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    labels = recipe.relabel(source.labels, generator)
    model = _network(recipe.widths, int(labels.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for rows in _batches(len(labels), 64, recipe.epochs, generator):
        _step(model, optimizer, source.images[rows], labels[rows])
    return model.eval()


def fine_tuned_accuracy(
    model: nn.Sequential, train: Digits, test: Digits, *, seed: int, epochs: int = 15
) -> float:
    """Return the test accuracy after fine-tuning all of a copy of ``model`` with a new head."""
    torch.manual_seed(seed)
    body, head = copy.deepcopy(model[:-1]), nn.Linear(FEATURES, 10)
    tuned = nn.Sequential(*body, head).train()
    slow = {"params": list(body.parameters()), "lr": 0.005}
    fast = {"params": list(head.parameters()), "lr": 0.05}
    optimizer = torch.optim.SGD([slow, fast], momentum=0.9)
    for rows in _batches(len(train.labels), 16, epochs, torch.Generator().manual_seed(seed)):
        _step(tuned, optimizer, train.images[rows], train.labels[rows])
    with torch.no_grad():
        return (tuned.eval()(test.images).argmax(dim=1) == test.labels).float().mean().item()


def look(model: nn.Sequential, data: Digits) -> tuple[Look, float]:
    """Return what scorers see of ``data`` through ``model``, and the seconds that took."""
    start = time.perf_counter()
    features = extract(model, data.images)
    with torch.no_grad():
        probabilities = model[-1](features).softmax(dim=1)
    return Look(features, data.labels, probabilities), time.perf_counter() - start


def split(data: Digits, seed: int) -> tuple[Digits, Digits]:
    """Return 150 samples for training, as many of each digit, and the rest."""
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    each = TARGET_SAMPLES // 10
    chosen = torch.cat([order[data.labels[order] == digit][:each] for digit in range(10)])
    rest = torch.ones(len(data.labels), dtype=torch.bool)
    rest[chosen] = False
    return data[chosen], data[rest.nonzero().flatten()]


def _grey(task: Task, part: str) -> Tensor:
    own = task.train.image(0)
    return uint8_images(task.splits[part], (own.height, own.width))[:, :1].float()


def _network(widths: tuple[int, ...], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.insert(3, nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def _batches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from (rows for rows in torch.randperm(count, generator=generator).split(size) if len(rows) > 1)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
