"""MNIST digits altered in ways a caption can tell, and the captions that tell them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from torchard.nn.dual_encoder.tiny import CONTEXT, DIGITS

Variant = Literal["plain", "placed"]
TEMPLATES = ("a photo of the {}", "an image of a {}", "a picture of the {}", "the {}", "a {}")
THICKNESS = (("plain",), ("thick", "bold"), ("thin", "fine"))
INVERTED = ("inverted", "negative")
REGIONS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class Captioned:
    """Altered images (values 0 to 1), what was done to each, and a caption each."""

    images: Float[Tensor, "n 1 28 28"]
    thickness: Int[Tensor, " n"]
    inverted: Int[Tensor, " n"]
    regions: Int[Tensor, " n"]
    captions: tuple[str, ...]


def draw_captioned(
    images: Float[Tensor, "n 1 28 28"],
    digits: Int[Tensor, " n"],
    generator: Generator,
    *,
    variant: Variant = "plain",
) -> Captioned:
    """Return every image altered at random, with a caption that mentions most of it.

    A third is made thick, a third thin; three in ten are tilted by 30°, three in ten inverted. With
    ``variant="placed"`` digits also shrink to 14 to 28 pixels, stand anywhere, and captions name the third of
    the image in which their middle lies. Each attribute is mentioned with probability 0.8, by its synonym
    with 0.3; the digit's name with 0.85.
    """
    count = len(images)
    thickness = torch.randint(3, (count,), generator=generator)
    tilted = torch.rand(count, generator=generator) < 0.3
    inverted = torch.rand(count, generator=generator) < 0.3
    altered = torch.where((thickness == 1)[:, None, None, None], dilate(images), images)
    altered = torch.where((thickness == 2)[:, None, None, None], erode(images), altered)
    angles = torch.where(tilted, torch.pi / 6, 0.0)
    regions = torch.ones(count, dtype=torch.int64)
    scales, offsets = torch.ones(count), torch.zeros(count, 2)
    if variant == "placed":
        scales = 0.5 + 0.5 * torch.rand(count, generator=generator)
        offsets = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scales[:, None])
        regions = region_of(offsets[:, 1])
    altered = place(altered, angles, scales, offsets)
    altered = torch.where(inverted[:, None, None, None], 1 - altered, altered)
    captions = tuple(
        _caption(
            int(digits[i]),
            THICKNESS[int(thickness[i])],
            bool(tilted[i]),
            bool(inverted[i]),
            REGIONS[int(regions[i])] if variant == "placed" else None,
            generator,
        )
        for i in range(count)
    )
    return Captioned(altered, thickness, inverted.long(), regions, captions)


def dilate(images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 1 28 28"]:
    """Return thicker strokes: the largest value among 3×3 neighbours."""
    return F.max_pool2d(images, 3, stride=1, padding=1)


def erode(images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 1 28 28"]:
    """Return thinner strokes: the smallest value among 2×2 neighbours."""
    return -F.max_pool2d(F.pad(-images, (0, 1, 0, 1), value=-1.0), 2, stride=1)


def place(
    images: Float[Tensor, "n 1 28 28"],
    angles: Float[Tensor, " n"],
    scales: Float[Tensor, " n"],
    offsets: Float[Tensor, "n 2"],
) -> Float[Tensor, "n 1 28 28"]:
    """Return images turned by ``angles``, shrunk by ``scales``, their middle at ``offsets`` (±1: edge)."""
    cos, sin = angles.cos() / scales, angles.sin() / scales
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    shift = -(turn @ offsets[:, :, None])
    grid = F.affine_grid(torch.cat([turn, shift], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def region_of(heights: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return in which third of the reachable heights (-0.5 to 0.5) the middles of digits lie."""
    return torch.bucketize(heights.contiguous(), torch.tensor([-0.12, 0.12]))


def _caption(
    digit: int,
    thickness: Sequence[str],
    tilted: bool,
    inverted: bool,
    region: str | None,
    generator: Generator,
) -> str:
    chance = torch.rand(8, generator=generator).tolist()
    words = []
    for present, names, mention, synonym in (
        (True, thickness, chance[0], chance[1]),
        (tilted, ("tilted",), chance[2], 1.0),
        (inverted, INVERTED, chance[3], chance[4]),
    ):
        if present and mention < 0.8:
            words.append(names[-1] if synonym < 0.3 else names[0])
    words.append(DIGITS[digit] if chance[5] < 0.85 else "digit")
    text = TEMPLATES[int(chance[6] * len(TEMPLATES))].format(" ".join(words))
    # The longest captions would not fit the encoder with the region too.
    named = region is not None and chance[7] < 0.8 and len(text.split()) + 3 <= CONTEXT - 2
    return f"{text} in the {region}" if named else text
