"""Train the small encoder on captioned digits, or fetch the one that is packed with torchard."""

import functools
import math
from importlib.resources import as_file, files
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchard.core.checkpoint import load_into, load_tensors, save_tensors
from torchard.core.data import load_task, uint8_images
from torchard.nn.dual_encoder.captions import Variant, draw_captioned
from torchard.nn.dual_encoder.contrastive import contrastive_loss
from torchard.nn.dual_encoder.tiny import TinyClip

BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 0.05
EPOCHS: dict[Variant, int] = {"plain": 12, "placed": 36}
TRAINING_DIGITS = 8000


def tiny_clip(
    pretrained: bool | Path = True, *, variant: Variant = "plain", seed: int = 0, cache: Path | None = None
) -> TinyClip:
    """Return the small encoder, trained on 8,000 MNIST digits with captions, in eval mode.

    ``variant="placed"`` has seen digits of any size in any place. The weights of seed 0 are packed with
    torchard; others are trained on first use, in some minutes, and kept under ``cache`` (default:
    ``~/.cache/torchard``). A path loads weights of your own, ``False`` gives random ones.

    Raises:
        FileRefusedError: if a file of weights is damaged or of another model.
    """
    if pretrained is False:
        torch.manual_seed(seed)
        return TinyClip().eval()
    model = TinyClip().eval()
    if isinstance(pretrained, Path):
        load_into(model, load_tensors(pretrained)[0])
    elif seed == 0:
        with as_file(
            files("torchard.nn.dual_encoder") / "assets" / f"tiny_clip_{variant}.safetensors"
        ) as file:
            load_into(model, load_tensors(file)[0])
    else:
        load_into(model, load_tensors(_trained_file(variant, seed, cache))[0])
    return model


def train_tiny_clip(
    images: Float[Tensor, "n 1 28 28"],
    digits: Int[Tensor, " n"],
    *,
    variant: Variant = "plain",
    seed: int = 0,
    epochs: int | None = None,
) -> TinyClip:
    """Return a small encoder trained on digits (values 0 to 1) whose captions are drawn anew in each epoch.

    AdamW with one cycle and 10 % warm-up; captions that occur twice in a batch match both images. The same
    numbers for the same seed on one thread.
    """
    torch.manual_seed(seed)
    model, generator = TinyClip().train(), torch.Generator().manual_seed(seed)
    epochs = EPOCHS[variant] if epochs is None else epochs
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step / steps))
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH)[: len(images) // BATCH]:
            loss = _batch_loss(model, images[rows], digits[rows], generator, variant)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model.eval()


@functools.cache
def mnist_digits() -> tuple[Float[Tensor, "n 1 28 28"], Int[Tensor, " n"]]:
    """Return the packed 10,000 digits in a fixed order; the first 8,000 are those trained on.

    Decoded once and shared: do not write into them.
    """
    task = load_task("mnist")
    parts = [task.train, task.validation, task.test]
    pixels = torch.cat([uint8_images(part, (28, 28))[:, :1] for part in parts]).contiguous()
    return pixels.float() / 255, torch.cat([part.targets for part in parts])


def _batch_loss(
    model: TinyClip, images: Tensor, digits: Tensor, generator: torch.Generator, variant: Variant
) -> Tensor:
    drawn = draw_captioned(images, digits, generator, variant=variant)
    similarity = model(model.preprocess(drawn.images), model.tokenize(list(drawn.captions)))
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(drawn.captions))}
    ids = torch.tensor([numbers[caption] for caption in drawn.captions])
    return contrastive_loss(similarity, ids[:, None] == ids)


def _one_cycle(fraction: float) -> float:
    if fraction < 0.1:
        return 0.04 + 0.96 * fraction / 0.1
    return 0.5 * (1 + math.cos(math.pi * (fraction - 0.1) / 0.9)) + 1e-4


def _trained_file(variant: Variant, seed: int, cache: Path | None) -> Path:
    folder = cache or Path.home() / ".cache" / "torchard"
    file = folder / f"tiny_clip-{variant}-{load_task('mnist').fingerprint[:12]}-{seed}.safetensors"
    if not file.exists():
        images, digits = mnist_digits()
        model = train_tiny_clip(
            images[:TRAINING_DIGITS], digits[:TRAINING_DIGITS], variant=variant, seed=seed
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(file, model.state_dict())
    return file
