"""Small folders of real image files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# A loaded machine is slow, and that is no fault of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

Draw = Callable[[Path, int], None]


@pytest.fixture
def draw() -> Draw:
    """Write one image whose content depends on a number."""

    def write(path: Path, number: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def make_folder(tmp_path: Path, draw: Draw) -> Callable[[Mapping[str, int]], Path]:
    """Make a folder with so many different PNG images in each named subfolder."""

    def make(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        number = 0
        for place, count in counts.items():
            (root / place).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                draw(root / place / f"{index:03d}.png", number)
                number += 1
        return root

    return make
