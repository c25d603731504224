"""Resize and normalise images for an encoder without leaving the graph of gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Preprocessing:
    """The size an encoder reads and the mean and deviation it was trained with."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocess(images01: Float[Tensor, "b c h w"], settings: Preprocessing) -> Float[Tensor, "b c2 h2 w2"]:
    """Return images resized by their shorter side, cut out of the middle, and normalised.

    Bicubic with antialiasing, as the encoders were trained with; differentiable, so that images can be
    optimised through it. One grey channel is repeated where the encoder reads three, three are averaged where
    it reads one.
    """
    images = _channels(images01, len(settings.mean))
    resized = _resized(images, settings.size)
    mean, std = (_column(values, resized) for values in (settings.mean, settings.std))
    return (resized - mean) / std


def _resized(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    shorter = min(height, width)
    scaled = (max(size, round(height * size / shorter)), max(size, round(width * size / shorter)))
    resized = F.interpolate(images, scaled, mode="bicubic", antialias=True, align_corners=False)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return resized[..., top : top + size, left : left + size]


def _channels(images: Tensor, wanted: int) -> Tensor:
    if images.shape[1] == wanted:
        return images
    return images.expand(-1, wanted, -1, -1) if images.shape[1] == 1 else images.mean(dim=1, keepdim=True)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
