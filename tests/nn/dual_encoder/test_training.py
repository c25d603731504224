"""The packed encoder knows its digits; training repeats itself; files come back."""

import pytest
import torch

from torchard.core.checkpoint import save_tensors
from torchard.core.data import load_task, uint8_images
from torchard.core.errors import FileRefusedError
from torchard.nn.dual_encoder import DualEncoder, draw_captioned, mnist_digits, tiny_clip, train_tiny_clip
from torchard.nn.dual_encoder.tiny import DIGITS
from torchard.nn.dual_encoder.training import TRAINING_DIGITS


@torch.no_grad()
def zero_shot(model: DualEncoder, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    features = model.encode_image(model.preprocess(images), normalize=True)
    return (features @ model.encode_text(model.tokenize(texts), normalize=True).T).argmax(dim=1)


@pytest.fixture(scope="module")
def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    images, digits = mnist_digits()
    return images[TRAINING_DIGITS:], digits[TRAINING_DIGITS:]


def test_the_packed_encoder_reads_held_out_digits_from_their_names(held_out):
    images, digits = held_out
    answers = zero_shot(tiny_clip(), images, [f"a photo of the {name}" for name in DIGITS])
    assert (answers == digits).float().mean() >= 0.88


def test_other_digits_are_a_real_gap():
    test = load_task("digits").test
    small = uint8_images(test, (20, 20))[:, :1].float() / 255
    images = torch.nn.functional.pad(small, (4, 4, 4, 4))
    answers = zero_shot(tiny_clip(), images, [f"a photo of the {name}" for name in DIGITS])
    assert 0.40 <= (answers == test.targets).float().mean() <= 0.75


def test_it_knows_thickness_and_inversion(held_out):
    images, digits = (part[:1000] for part in held_out)
    drawn = draw_captioned(images, digits, torch.Generator().manual_seed(0))
    inverted = zero_shot(tiny_clip(), drawn.images, ["a plain digit", "an inverted digit"])
    assert (inverted == drawn.inverted).float().mean() >= 0.85
    thickness = zero_shot(tiny_clip(), drawn.images, ["a plain digit", "a thick digit", "a thin digit"])
    assert (thickness == drawn.thickness).float().mean() >= 0.85


def test_the_placed_encoder_reads_small_digits_anywhere(held_out):
    images, digits = (part[:1000] for part in held_out)
    drawn = draw_captioned(images, digits, torch.Generator().manual_seed(0), variant="placed")
    names = [f"a photo of the {name}" for name in DIGITS]
    placed = (zero_shot(tiny_clip(variant="placed"), drawn.images, names) == digits).float().mean()
    plain = (zero_shot(tiny_clip(), drawn.images, names) == digits).float().mean()
    assert placed > plain + 0.2


def test_training_repeats_itself_and_follows_the_seed():
    images, digits = mnist_digits()
    first, second = (train_tiny_clip(images[:128], digits[:128], epochs=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = train_tiny_clip(images[:128], digits[:128], epochs=1, seed=1)
    assert not torch.equal(first.text.positions, other.text.positions)
    assert not first.training


def test_weights_come_back_from_a_file_bit_for_bit(tmp_path):
    model = tiny_clip(pretrained=False, seed=5)
    save_tensors(tmp_path / "own.safetensors", model.state_dict())
    loaded = tiny_clip(tmp_path / "own.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(FileRefusedError):
        tiny_clip(tmp_path / "other.safetensors")
