"""Small configurations of diffusers architectures, randomly initialised."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from experiments.prune.subject import Subject

Build = Callable[[], Any]


def unet() -> Any:
    model = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip
    return Subject(model, (torch.randn(1, 3, 16, 16), torch.tensor([5])))


def conditional_unet() -> Any:
    model = UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8, attention_head_dim=4,
    )  # fmt: skip
    return Subject(model, (torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 7, 24)))


def autoencoder() -> Any:
    model = AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return Subject(model, torch.randn(1, 3, 32, 32))


def dit() -> Any:
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=16,
        norm_num_groups=8,
    )
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.tensor([1]))
    return Subject(model, inputs)


MODELS: dict[str, Build] = {
    "unet": unet,
    "conditional_unet": conditional_unet,
    "autoencoder": autoencoder,
    "dit": dit,
}
