"""A folder of small pictures and a small model, so that the whole line runs in seconds."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from torchard.core.data import InputSpec
from torchard.hub.folder import save


def write_digits(folder: Path, *, classes: int = 3, each: int = 30) -> Path:
    """Write handwritten digits as PNG files of 32×32 pixels, a folder a class, and two broken files."""
    images, labels = load_digits(return_X_y=True)
    for label in range(classes):
        place = folder / f"digit {label}"
        place.mkdir(parents=True)
        for number, pixels in enumerate(images[labels == label][:each]):
            grey = (pixels.reshape(8, 8) * 15.9).astype(np.uint8)
            Image.fromarray(grey).resize((32, 32)).save(place / f"{number:03}.png")
    (folder / "digit 0" / "text.png").write_text("not a picture")
    (folder / "digit 1" / "empty.jpg").write_bytes(b"")
    return folder


def write_model(folder: Path) -> Path:
    """Write a convolutional network of a third of a million weights, drawn from a fixed seed."""
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", pretrained=False)
    save(folder, model, name="test_efficientnet", input=InputSpec((32, 32)))
    return folder
