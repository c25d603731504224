"""A part of a data set: images that are decoded when asked for, and what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from torchard.core.errors import DataError
from torchard.core.files import one_line, quote
from torchard.core.pixels import open_image, to_rgb

T = TypeVar("T")


@runtime_checkable
class Images(Protocol):
    """Pictures by position; each comes decoded, as RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their targets; ``names`` are stable ids, for files their path relative to the data folder.

    ``soft_targets`` holds class probabilities where annotators were unsure, ``groups`` what results are also
    reported by, ``sizes`` each image's (height, width) before any resizing.
    """

    images: Images
    targets: Int[Tensor, " n"]
    names: tuple[str, ...]
    soft_targets: Float[Tensor, "n c"] | None = None
    groups: tuple[str, ...] | None = None
    paths: tuple[Path, ...] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        columns = (self.targets, self.names, self.soft_targets, self.groups, self.paths, self.sizes)
        lengths = {len(column) for column in columns if column is not None}
        if lengths != {len(self.images)}:
            raise ValueError(f"a split of {len(self.images)} images has columns of lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Return one image as RGB."""
        return self.images[index]

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> "Split":
        """Return the samples at ``indices``, in that order; nothing is decoded."""
        order = [int(index) for index in indices]
        rows = torch.tensor(order, dtype=torch.int64)
        return Split(
            images=ChosenImages(self.images, order),
            targets=self.targets[rows],
            names=_take(self.names, order),
            soft_targets=None if self.soft_targets is None else self.soft_targets[rows],
            groups=None if self.groups is None else _take(self.groups, order),
            paths=None if self.paths is None else _take(self.paths, order),
            sizes=None if self.sizes is None else _take(self.sizes, order),
        )


class FileImages:
    """Image files, opened when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image.Image:
        try:
            return open_image(self.paths[index])
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{quote(self.paths[index])} can no longer be read: {one_line(error)}") from None


class ArrayImages:
    """Grey or RGB images held in one array."""

    def __init__(self, pixels: UInt8[np.ndarray, "n h w"] | UInt8[np.ndarray, "n h w 3"]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> Image.Image:
        return to_rgb(Image.fromarray(self.pixels[index]))


class ChosenImages:
    """Some of another sequence's images, in an order of their own."""

    def __init__(self, images: Images, order: Sequence[int]) -> None:
        self.images: Images = images
        self.order = tuple(order)
        # Choosing from a choice goes straight to the source, so that repeated subsets stay one step deep.
        if isinstance(images, ChosenImages):
            self.images, self.order = images.images, tuple(images.order[index] for index in order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int, /) -> Image.Image:
        return self.images[self.order[index]]


def _take(column: Sequence[T], order: Sequence[int]) -> tuple[T, ...]:
    return tuple(column[index] for index in order)
