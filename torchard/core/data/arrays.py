"""A split's images as tensors: decoded and resized once, then cheap to augment and to normalise."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from torchard.core.data.spec import InputSpec, Interpolation, Rule
from torchard.core.data.split import Split
from torchard.core.pixels import resize

CACHE_BYTES = 2 << 30  # per split; the oldest resolution goes first

_decoded: WeakKeyDictionary[Split, dict[tuple[object, ...], Tensor]] = WeakKeyDictionary()


def tensors(
    split: Split, spec: InputSpec, *, indices: Sequence[int] | Int[Tensor, " m"] | None = None
) -> Float[Tensor, "m 3 h w"]:
    """Return images as the model reads them, equal to :func:`preprocess` of each bit for bit, all at once.

    12 bytes per pixel, so for small sets; a :class:`Loader` streams larger ones.
    """
    chosen = split if indices is None else split.subset(indices)
    return normalise(decode(chosen, range(len(chosen)), spec), spec)


def uint8_images(
    split: Split,
    size: tuple[int, int],
    *,
    interpolation: Interpolation = "bilinear",
    rule: Rule = "squash",
) -> UInt8[Tensor, "n 3 h w"]:
    """Return all images of the split at ``size`` (height, width), decoded once and kept with it.

    Shared between callers: do not write into it. Memory format is channels last. At most ``CACHE_BYTES`` are
    remembered per split; a larger set is decoded again at each call.
    """
    kept = _decoded.setdefault(split, {})
    key = (size, interpolation, rule)
    if key not in kept:
        images = decode(split, range(len(split)), InputSpec(size, interpolation=interpolation, rule=rule))
        _remember(kept, key, images)
        return images
    return kept[key]


def decode(split: Split, indices: Sequence[int], spec: InputSpec) -> UInt8[Tensor, "m 3 h w"]:
    """Return the chosen images resized by ``spec``, not normalised; one thread per core decodes."""
    pixels = np.empty((len(indices), *spec.size, 3), dtype=np.uint8)

    def fill(row: int) -> None:
        image = split.image(indices[row])
        pixels[row] = np.asarray(resize(image, spec.size, interpolation=spec.interpolation, rule=spec.rule))

    for _ in _in_threads(fill, len(indices)):
        pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalise(images: Tensor, spec: InputSpec) -> Float[Tensor, "m 3 h w"]:
    """Return ``(images / 255 − mean) / std`` in float32, of uint8 or of floats in 0…255."""
    mean = torch.tensor(spec.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(3, 1, 1)
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return values.div(255).sub_(mean).div_(std)


def workers() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_threads(task: Callable[[int], None], count: int) -> Iterator[None]:
    if count < 2:
        yield from map(task, range(count))
        return
    with ThreadPoolExecutor(workers()) as pool:
        yield from pool.map(task, range(count))


def _remember(kept: dict[tuple[object, ...], Tensor], key: tuple[object, ...], images: Tensor) -> None:
    if images.nbytes > CACHE_BYTES:
        return
    while kept and images.nbytes + sum(other.nbytes for other in kept.values()) > CACHE_BYTES:
        kept.pop(next(iter(kept)))
    kept[key] = images
