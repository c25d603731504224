"""Small models of the families that the tuning methods promise to work on."""

import timm
import torch
from torch import nn

SIZES = {"vit": 32, "swin": 32, "convnext": 32, "resnet": 32, "efficientnet": 32}


def make(family: str, *, num_classes: int = 5) -> nn.Module:
    """Return a model of the family with random weights and running statistics, in eval mode and float64."""
    torch.manual_seed(0)
    model = _create(family, num_classes).double().eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def images(family: str, n: int = 2) -> torch.Tensor:
    """Return random images of the size the family's model takes."""
    size = SIZES[family]
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _create(family: str, num_classes: int) -> nn.Module:
    if family == "vit":
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_classes=num_classes
        )
    if family == "swin":
        sizes = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
        options = {**sizes, "window_size": 2, "patch_size": 2}
        return timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=32, num_classes=num_classes, **options
        )
    names = {"convnext": "test_convnext", "resnet": "test_resnet", "efficientnet": "test_efficientnet"}
    return timm.create_model(names[family], num_classes=num_classes)
