"""Random changes that keep an image's label, for whole batches of tensors at once.

Each function takes images in 0…255 (uint8 or float, ``n c h w``) and a generator, draws for every sample on
its own, and returns new images; none loops over samples. Chain them with :func:`compose`.
"""

from collections.abc import Callable
from math import log

import torch
from jaxtyping import Bool, Shaped
from torch import Generator, Tensor
from torch.nn import functional

from torchard.core.data.task import Task

Augment = Callable[[Tensor, Generator], Tensor]


def default_augment(task: Task) -> Augment:
    """Return what fits the task.

    All eight orientations where they keep the label; for other photographs mirroring, random crops and
    light; for glyphs, where a mirror image is another sign, small shifts alone.
    """
    if task.orientation_free:
        # Nothing beside them: where any orientation will do the camera looks straight on, and its frame and
        # exposure are the same in every image; shifts and light would teach variation that never comes.
        return random_orientation
    if task.mirror_free:
        return compose(random_mirror, random_resized_crop, random_light)
    return random_shift


def compose(*steps: Augment) -> Augment:
    """Return one augmentation that does ``steps`` in turn, with one generator."""

    def composed(images: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return composed


def random_mirror(images: Shaped[Tensor, "n c h w"], generator: Generator) -> Shaped[Tensor, "n c h w"]:
    """Return the images, about half of them with left and right exchanged."""
    return _where(_coins(images, generator), images.flip(3), images)


def random_orientation(images: Shaped[Tensor, "n c h w"], generator: Generator) -> Shaped[Tensor, "n c h w"]:
    """Return each image in one of its eight flips and quarter turns; of four, if it is not square."""
    images = _where(_coins(images, generator), images.flip(3), images)
    images = _where(_coins(images, generator), images.flip(2), images)
    if images.shape[2] != images.shape[3]:
        return images
    return _where(_coins(images, generator), images.transpose(2, 3), images)


def random_shift(
    images: Shaped[Tensor, "n c h w"], generator: Generator, *, fraction: float = 0.08
) -> Shaped[Tensor, "n c h w"]:
    """Return each image moved by whole pixels, at most ``fraction`` of its side, its edge pixels repeated."""
    count, _, height, width = images.shape
    rows = _shifted(count, height, fraction, generator).to(images.device)
    columns = _shifted(count, width, fraction, generator).to(images.device)
    samples = torch.arange(count, device=images.device)[:, None, None]
    # Gathered channels last, which is how batches lie in memory.
    moved = images.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def random_resized_crop(
    images: Shaped[Tensor, "n c h w"],
    generator: Generator,
    *,
    area: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (0.8, 1.25),
) -> Shaped[Tensor, "n c h w"]:
    """Return a random box of each image, with this share of its area and this aspect, enlarged."""
    count = len(images)
    areas = _uniform(count, area, generator)
    aspects = _uniform(count, (log(ratio[0]), log(ratio[1])), generator)
    width = (areas * aspects.exp()).sqrt().clamp(max=1)
    height = (areas / aspects.exp()).sqrt().clamp(max=1)
    left, top = (_uniform(count, (-1.0, 1.0), generator) * (1 - side) for side in (width, height))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = width, left, height, top
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def random_light(
    images: Shaped[Tensor, "n c h w"],
    generator: Generator,
    *,
    brightness: float = 0.15,
    contrast: float = 0.15,
) -> Shaped[Tensor, "n c h w"]:
    """Return each image brighter or darker, and with more or less contrast, by up to these fractions."""
    count = len(images)
    gain = _uniform(count, (1 - brightness, 1 + brightness), generator).to(images.device).view(-1, 1, 1, 1)
    spread = _uniform(count, (1 - contrast, 1 + contrast), generator).to(images.device).view(-1, 1, 1, 1)
    images = images.float()
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - middle).mul_(spread).add_(middle).mul_(gain)).clamp_(0, 255)


def _coins(images: Tensor, generator: Generator) -> Bool[Tensor, " n"]:
    return (torch.rand(len(images), generator=generator) < 0.5).to(images.device)


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], yes, no)


def _uniform(count: int, limits: tuple[float, float], generator: Generator) -> Tensor:
    low, high = limits
    return torch.rand(count, generator=generator) * (high - low) + low


def _shifted(count: int, side: int, fraction: float, generator: Generator) -> Tensor:
    """Row (or column) numbers of each sample after its shift, held inside the image."""
    reach = round(side * fraction)
    shifts = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    return (torch.arange(side) + shifts).clamp(0, side - 1)
