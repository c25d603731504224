import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from torchard.core.data import default_augment, load_task
from torchard.core.data.augment import (
    compose,
    random_light,
    random_mirror,
    random_orientation,
    random_resized_crop,
    random_shift,
)

ALL = [random_mirror, random_orientation, random_shift, random_resized_crop, random_light]


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 64, height: int = 9, width: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=generator(99), dtype=torch.uint8)


def orientations(image: torch.Tensor) -> list[torch.Tensor]:
    turned = [image.rot90(turns, (1, 2)) for turns in range(4)]
    return turned + [image.flip(2) for image in turned]


@pytest.mark.parametrize("augment", ALL, ids=lambda augment: augment.__name__)
def test_an_augmentation_is_a_function_of_images_and_generator_state(augment):
    images = noise()
    before = images.clone()
    first = augment(images, generator(1))
    assert torch.equal(images, before)
    assert torch.equal(first, augment(images, generator(1)))
    assert not torch.equal(first, augment(images, generator(2)))
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 255


@pytest.mark.parametrize("augment", ALL, ids=lambda augment: augment.__name__)
def test_samples_are_changed_independently(augment):
    copies = noise(1).expand(64, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in augment(copies, generator())}) > 1


def test_orientations_are_all_eight_and_equally_likely():
    image = noise(1)
    turned = random_orientation(image.expand(4000, -1, -1, -1), generator())
    counts = [int((turned == version).flatten(1).all(dim=1).sum()) for version in orientations(image[0])]
    assert sum(counts) == 4000
    assert all(400 < count < 600 for count in counts)


def test_orientations_of_an_oblong_image_keep_its_shape():
    image = noise(1, height=5, width=8)
    turned = random_orientation(image.expand(200, -1, -1, -1), generator())
    kept = [image[0], image[0].flip(2), image[0].flip(1), image[0].flip(1, 2)]
    assert all(any(torch.equal(result, version) for version in kept) for result in turned)
    assert len({tuple(result.flatten().tolist()) for result in turned}) == 4


def test_mirroring_exchanges_left_and_right_of_about_half():
    images = noise(2000, 3, 3)
    mirrored = random_mirror(images, generator())
    same, flipped = ((mirrored == other).flatten(1).all(dim=1) for other in (images, images.flip(3)))
    assert bool((same | flipped).all())
    assert 900 < int(flipped.sum()) < 1100


@given(fraction=st.floats(0, 0.5), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_shift_equals_moving_the_padded_image(fraction, seed):
    images = noise(6, 7, 11)
    shifted = random_shift(images, generator(seed), fraction=fraction)
    down, across = round(7 * fraction), round(11 * fraction)
    padded = torch.nn.functional.pad(images.float(), (across, across, down, down), mode="replicate").to(
        torch.uint8
    )
    for row in range(6):
        windows = [
            padded[row, :, top : top + 7, left : left + 11]
            for top in range(2 * down + 1)
            for left in range(2 * across + 1)
        ]
        assert any(torch.equal(shifted[row], window) for window in windows)


def test_a_crop_of_everything_is_the_image():
    images = noise().float()
    whole = random_resized_crop(images, generator(), area=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(whole, images, rtol=0, atol=1e-2)


def test_crops_show_boxes_of_the_wanted_area():
    # On a horizontal ramp the range of values seen tells the width of the box, on a vertical one its height.
    side = 100
    ramp = torch.arange(side).float().expand(300, 1, side, side)
    widths, heights = (
        (seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))) / (side - 1)
        for seen in (
            random_resized_crop(images, generator(5), area=(0.3, 0.6), ratio=(1.0, 1.0))
            for images in (ramp, ramp.transpose(2, 3))
        )
    )
    areas = widths * heights
    assert 0.27 < areas.min() < 0.34
    assert 0.56 < areas.max() < 0.63


def test_light_keeps_black_black_and_scales_means_within_bounds():
    assert random_light(torch.zeros(5, 3, 4, 4), generator()).abs().max() == 0
    images = torch.full((500, 3, 4, 4), 100.0)
    means = random_light(images, generator(), brightness=0.2, contrast=0.5).mean(dim=(1, 2, 3))
    assert 80 <= means.min() < 85
    assert 115 < means.max() <= 120


def test_compose_runs_the_steps_in_order_with_one_generator():
    images = noise()
    one = generator(4)
    expected = random_light(random_mirror(images, one), one)
    assert torch.equal(compose(random_mirror, random_light)(images, generator(4)), expected)


def test_the_default_fits_the_task():
    digits = load_task("digits")
    asymmetric = torch.zeros(200, 1, 21, 21)
    asymmetric[:, :, :10, :10] = 200.0  # bright in one corner: reversed only by flips and turns

    def corners(task: object) -> set[int]:
        seen = default_augment(task)(asymmetric, generator())  # type: ignore[arg-type]
        quarters = seen[:, 0].unfold(1, 10, 11).unfold(2, 10, 11).mean(dim=(3, 4)).flatten(1)
        return set(quarters.argmax(dim=1).tolist())

    assert corners(digits) == {0}
    assert corners(dataclasses.replace(digits, mirror_free=True)) == {0, 1}
    assert corners(dataclasses.replace(digits, orientation_free=True)) == {0, 1, 2, 3}
