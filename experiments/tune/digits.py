"""Small networks that learn on MNIST and are tuned on scikit-learn's digits, all at 16×16 grey pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.core.data import InputSpec, load_task, tensors

SPEC = InputSpec(size=(16, 16), mean=(0.2, 0.2, 0.2), std=(0.35, 0.35, 0.35))


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 16, 16) and their labels."""

    images: Tensor
    targets: Tensor

    def subset(self, indices: Tensor) -> "Digits":
        """Return the digits at ``indices``."""
        return Digits(self.images[indices], self.targets[indices])


def load_digits(name: str) -> Digits:
    """Return all images of ``mnist`` or ``digits``."""
    task = load_task(name)
    parts = [task.train, task.validation, task.test]
    images = torch.cat([tensors(part, SPEC)[:, :1] for part in parts]).contiguous()
    return Digits(images, torch.cat([part.targets for part in parts]))


def convnet(width: int, seed: int) -> nn.Module:
    """Return a network of three convolutions with batch norm and a linear classifier."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for channels, out in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def pretrain(
    model: nn.Module, digits: Digits, *, epochs: int, noise: float = 0.0, seed: int = 0
) -> nn.Module:
    """Train on digits of which a share of ``noise`` got random labels; return the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(digits.targets), generator=generator) < noise
    random = torch.randint(10, digits.targets.shape, generator=generator)
    targets = torch.where(wrong, random, digits.targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(targets), generator=generator).split(128):
            loss = F.cross_entropy(model(shaken(digits.images[rows], generator)), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def shaken(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images shifted by up to two pixels, with noise."""
    padded = F.pad(images, (2, 2, 2, 2), value=float(images.min()))
    top, left = torch.randint(5, (2, len(images)), generator=generator)
    rows = (top[:, None] + torch.arange(16))[:, :, None]
    columns = (left[:, None] + torch.arange(16))[:, None, :]
    shifted = padded[torch.arange(len(images))[:, None, None], 0, rows, columns][:, None]
    return shifted + 0.1 * torch.randn(images.shape, generator=generator)


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Return the share of right answers in percent, in eval mode."""
    answers = torch.cat([model.eval()(batch).argmax(dim=1) for batch in digits.images.split(500)])
    return 100 * (answers == digits.targets).float().mean().item()
