"""The global random states of Python, NumPy and torch: set, saved, restored together."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, *, rank: int = 0) -> None:
    """Seed Python, NumPy and torch; processes of other ``rank`` draw other numbers."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)  # noqa: NPY002 - other people's data sets draw from it
    torch.manual_seed(seed + rank)


def random_state(*, devices: bool = True) -> dict[str, Any]:
    """Return all global random states as a checkpoint holds them; those of GPUs only with ``devices``."""
    kind, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    version, python, gauss = random.getstate()
    return {
        # Hundreds of words each: as tensors they cost a checkpoint nothing.
        "python": (version, torch.tensor(python), gauss),
        "numpy": (str(kind), torch.from_numpy(np.asarray(words).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if devices and torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set all global random states to what :func:`random_state` returned, here or in another process."""
    kind, words, *rest = state["numpy"]
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python.tolist()), gauss))
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def randomness_kept(*, devices: bool = True) -> Iterator[None]:
    """Give the global random states back at the end as they were, also after an error."""
    before = random_state(devices=devices)
    try:
        yield
    finally:
        set_random_state(before)
