"""Small networks the tests prune."""

import torch
from torch import Tensor, nn


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every constant parameter and running statistic, so that no unit is silent by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def unit(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two blocks around a sum, a strided shortcut, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 8)
        self.first = nn.Sequential(unit(8, 16, 2), nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16))
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stem(inputs)
        maps = torch.relu(self.first(maps) + self.shortcut(maps))
        return self.head(maps.mean((2, 3)))


def plain() -> nn.Sequential:
    """A stack of convolutions of one width."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        *(layer for _ in range(3) for layer in (nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))),
        nn.Flatten(),
        nn.Linear(16 * 36, 4),
    )
