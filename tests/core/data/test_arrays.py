import gc

import numpy as np
import pytest
import torch

from torchard.core.data import InputSpec, Split, arrays, preprocess, tensors, uint8_images
from torchard.core.data.split import ArrayImages


def noise(count: int = 5, *, side: int = 20) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side + 4, 3), dtype=np.uint8)
    return Split(ArrayImages(pixels), torch.zeros(count).long(), tuple(map(str, range(count))))


@pytest.mark.parametrize("rule", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_tensors_equal_preprocess_bit_for_bit(rule, interpolation):
    split = noise()
    spec = InputSpec((16, 12), interpolation=interpolation, rule=rule)
    result = tensors(split, spec)
    assert result.dtype == torch.float32
    for row in range(len(split)):
        assert np.array_equal(result[row].numpy(), preprocess(split.image(row), spec))


def test_every_grey_level_is_normalised_as_by_numpy():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    split = Split(ArrayImages(levels), torch.zeros(1).long(), ("levels",))
    for mean, std in [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.498,) * 3, (0.502,) * 3)]:
        spec = InputSpec((16, 16), mean=mean, std=std)
        assert np.array_equal(tensors(split, spec)[0].numpy(), preprocess(split.image(0), spec))


def test_indices_choose_and_order_the_samples():
    split, spec = noise(), InputSpec((8, 8))
    assert torch.equal(tensors(split, spec, indices=[3, 1]), tensors(split, spec)[[3, 1]])


def test_batches_are_channels_last():
    split, spec = noise(), InputSpec((8, 8))
    assert tensors(split, spec).is_contiguous(memory_format=torch.channels_last)
    assert uint8_images(split, (8, 8)).is_contiguous(memory_format=torch.channels_last)


def test_images_are_decoded_once_per_size_and_forgotten_with_their_split():
    split = noise()
    first = uint8_images(split, (8, 8))
    assert first.dtype == torch.uint8
    assert uint8_images(split, (8, 8)) is first
    assert uint8_images(split, (8, 8), rule="crop") is not first
    before = len(arrays._decoded)
    del split
    gc.collect()
    assert len(arrays._decoded) == before - 1


def test_beyond_the_byte_limit_the_oldest_resolution_goes(monkeypatch):
    split = noise(2)
    monkeypatch.setattr(arrays, "CACHE_BYTES", 2 * 3 * (8 * 8 + 5 * 5))
    small, middle = uint8_images(split, (4, 4)), uint8_images(split, (8, 8))
    assert uint8_images(split, (4, 4)) is small
    uint8_images(split, (5, 5))
    assert uint8_images(split, (8, 8)) is middle
    assert uint8_images(split, (4, 4)) is not small


def test_a_set_larger_than_the_limit_is_not_kept(monkeypatch):
    split = noise(2)
    monkeypatch.setattr(arrays, "CACHE_BYTES", 10)
    assert uint8_images(split, (4, 4)) is not uint8_images(split, (4, 4))


def test_an_empty_split_gives_an_empty_tensor():
    split = noise().subset([])
    assert tensors(split, InputSpec((8, 6))).shape == (0, 3, 8, 6)
