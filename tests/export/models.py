"""Small classifiers with something in them that exporters get wrong, and images to try them on."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchard.core.data import InputSpec

SPEC = InputSpec(
    size=(24, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic", rule="crop"
)
CLASSES = ("apple", 'p"ear\n<b>', "caf\udce9 \U0001f34e")


def small_net(*, width: int = 8, seed: int = 0) -> nn.Module:
    """Convolutions, batch normalisation with statistics of its own, a linear head; eval, channels_last."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, groups=width),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(width, len(CLASSES)),
    )
    model(torch.randn(8, 3, *SPEC.size))  # moves the running statistics
    return model.eval().to(memory_format=torch.channels_last)


class FrozenBatch(nn.Module):
    """A model whose author wrote a batch of two down."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.reshape(2, 3, *SPEC.size))


def pictures(folder: Path) -> list[Path]:
    """Image files of every kind a model meets: colour, grey, palette, transparent, 16-bit, turned, tiny."""
    draw = np.random.default_rng(0)

    def noise(*shape: int, kind: type = np.uint8) -> np.ndarray:
        return draw.integers(0, np.iinfo(kind).max, shape, dtype=kind)

    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "colour.jpg": (Image.fromarray(noise(40, 61, 3)), {}),
        "-dash and space.png": (Image.fromarray(noise(33, 20)), {}),
        "palette.gif": (Image.fromarray(noise(30, 30)).convert("P"), {}),
        "clear.png": (Image.fromarray(noise(50, 31, 4)), {}),
        "deep.png": (Image.fromarray(noise(28, 44, kind=np.uint16)), {}),
        "turned.jpg": (Image.fromarray(noise(30, 60, 3)), {"exif": turned}),
        "quote'\".bmp": (Image.fromarray(noise(20, 20, 3)), {}),
        "tiny.png": (Image.fromarray(noise(1, 1, 3)), {}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return [folder / name for name in files]
