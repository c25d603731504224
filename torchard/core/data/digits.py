"""Scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels, for quick looks."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from sklearn.datasets import load_digits as _load_digits

from torchard.core.data.carve import complete_parts
from torchard.core.data.listing import Listing, make_task
from torchard.core.data.split import ArrayImages
from torchard.core.data.task import Metric, Task


def load_digits(*, seed: int = 0, metric: Metric | None = None) -> Task:
    """Return the ten-digit task of scikit-learn; its values 0…16 become 0…255."""
    data = _load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return glyph_task(pixels, data.target, name="digits", spec="digits", seed=seed, metric=metric)


def glyph_task(
    pixels: UInt8[np.ndarray, "n h w"],
    digits: Sequence[int] | np.ndarray,
    *,
    name: str,
    spec: str,
    seed: int,
    metric: Metric | None,
    parts: Sequence[str] | None = None,
) -> Task:
    """Return the task of telling digits apart; missing splits are carved from train."""
    labels = [str(digit) for digit in digits]
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    listing = Listing(
        images=ArrayImages(pixels),
        names=[f"{name}-{row:05d}" for row in range(len(pixels))],
        labels=labels,
        digests=digests,
        sizes=[(int(pixels.shape[1]), int(pixels.shape[2]))] * len(pixels),
    )
    given = parts or ["train"] * len(labels)
    complete = complete_parts(given, labels=labels, groups=[""] * len(labels), digests=digests, seed=seed)
    return make_task(
        listing,
        complete,
        name=name,
        spec=spec,
        classes=[str(digit) for digit in range(10)],
        metric=metric or "accuracy",
        mirror_free=False,
    )
