"""Data for the scorers' tests: classes as clouds around their means."""

import torch


def clouds(
    n: int = 90, d: int = 6, *, classes: int = 3, noise: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (n, d) in float64 and class ids (n,), as many of each."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % classes
    means = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    return means[targets] + noise * torch.randn(n, d, generator=generator, dtype=torch.float64), targets


def rotation(d: int, seed: int = 1) -> torch.Tensor:
    """Return a random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
