from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchard.core.data import Split
from torchard.core.data.split import ArrayImages, ChosenImages, FileImages
from torchard.core.errors import DataError


def numbered(count: int = 6) -> Split:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return Split(
        images=ArrayImages(pixels),
        targets=torch.arange(count) % 2,
        names=tuple(f"n{index}" for index in range(count)),
        soft_targets=torch.eye(count)[:, :2],
        groups=tuple("ab"[index % 2] for index in range(count)),
        paths=tuple(Path(f"{index}.png") for index in range(count)),
        sizes=tuple((2, index) for index in range(count)),
    )


@given(st.lists(st.integers(0, 5), max_size=8), st.data())
def test_subsets_of_subsets_keep_every_column_in_step(outer, data):
    whole = numbered()
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), max_size=4)) if outer else []
    part = whole.subset(outer).subset(inner)
    assert len(part) == len(inner)
    for row, index in enumerate(inner):
        source = outer[index]
        assert part.image(row).getpixel((0, 0)) == (source, source, source)
        assert part.names[row] == f"n{source}"
        assert part.targets[row] == source % 2
        assert torch.equal(part.soft_targets[row], whole.soft_targets[source])
        assert (part.groups[row], part.paths[row], part.sizes[row]) == (
            whole.groups[source],
            whole.paths[source],
            (2, source),
        )


def test_a_subset_of_a_subset_is_one_step_from_the_images():
    part = numbered().subset([5, 4, 3]).subset(torch.tensor([2, 0]))
    assert isinstance(part.images, ChosenImages)
    assert isinstance(part.images.images, ArrayImages)
    assert part.images.order == (3, 5)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="2 images has columns of lengths"):
        Split(images=ArrayImages(np.zeros((2, 4, 4), np.uint8)), targets=torch.zeros(2).long(), names=("a",))


def test_a_file_that_went_bad_after_the_scan_is_named(tmp_path):
    file = tmp_path / "a\nb.png"
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\\nb.png' can no longer be read"):
        FileImages([file])[0]
