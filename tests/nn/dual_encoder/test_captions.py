"""Altered digits and what their captions say of them."""

import pytest
import torch

from torchard.nn.dual_encoder import TinyClip, draw_captioned
from torchard.nn.dual_encoder.captions import dilate, erode, place, region_of
from torchard.nn.dual_encoder.tiny import DIGITS


def blots(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.zeros(n, 1, 28, 28)
    images[:, :, 8:20, 12:16] = 1.0
    return images, torch.arange(n) % 10


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_strokes_grow_and_shrink_by_the_size_of_the_window():
    images, _ = blots(1)
    assert dilate(images).sum() == 14 * 6
    assert erode(images).sum() == 11 * 3


def test_placing_moves_and_shrinks_without_turning_over():
    images, _ = blots(1)
    still = place(images, torch.zeros(1), torch.ones(1), torch.zeros(1, 2))
    torch.testing.assert_close(still, images, rtol=0, atol=1e-5)
    placed = place(images, torch.zeros(1), torch.tensor([0.5]), torch.tensor([[0.5, -0.5]]))
    rows, columns = torch.nonzero(placed[0, 0] > 0.5, as_tuple=True)
    assert rows.float().mean().item() == pytest.approx(7 - 0.5, abs=1)  # a quarter from the top
    assert columns.float().mean().item() == pytest.approx(21 - 0.5, abs=1)  # a quarter from the right
    assert placed.sum().item() == pytest.approx(images.sum().item() / 4, rel=0.1)


def test_regions_are_thirds_of_the_reachable_heights():
    assert region_of(torch.tensor([-0.4, 0.0, 0.4])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("variant", ["plain", "placed"])
def test_captions_are_true_and_in_the_vocabulary(variant):
    images, digits = blots()
    drawn = draw_captioned(images, digits, generator(), variant=variant)
    TinyClip().tokenize(list(drawn.captions))
    for i, caption in enumerate(drawn.captions):
        words = set(caption.split())
        assert not words & (set(DIGITS) - {DIGITS[int(digits[i])]})
        if words & {"thick", "bold"}:
            assert drawn.thickness[i] == 1
        if words & {"inverted", "negative"}:
            assert drawn.inverted[i] == 1
        for number, region in enumerate(("top", "middle", "bottom")):
            if region in words:
                assert variant == "placed"
                assert drawn.regions[i] == number


def test_shares_are_as_announced():
    images, digits = blots(4000)
    drawn = draw_captioned(images, digits, generator())
    named = sum(DIGITS[int(d)] in c.split() for d, c in zip(digits, drawn.captions, strict=True)) / 4000
    assert named == pytest.approx(0.85, abs=0.02)
    assert drawn.inverted.float().mean().item() == pytest.approx(0.3, abs=0.03)
    thick = [c for c, t in zip(drawn.captions, drawn.thickness, strict=True) if t == 1]
    assert sum("thick" in c or "bold" in c for c in thick) / len(thick) == pytest.approx(0.8, abs=0.03)
    assert (drawn.images[drawn.inverted == 1].mean() > 0.5).item()
    assert drawn.images.min() >= 0
    assert drawn.images.max() <= 1


def test_the_same_generator_draws_the_same():
    images, digits = blots(20)
    first, second = (draw_captioned(images, digits, generator(), variant="placed") for _ in range(2))
    assert first.captions == second.captions
    assert torch.equal(first.images, second.images)
