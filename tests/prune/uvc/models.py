"""Small transformers, and decisions about them."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from torchard.prune.uvc import UVCDecision, ViTSpec

DEPTH, HEADS, HEAD_WIDTH, HIDDEN, WIDTH, TOKENS, CLASSES = 3, 3, 4, 24, 12, 5, 3
SPEC = ViTSpec(DEPTH, HEADS, HEAD_WIDTH, HIDDEN, WIDTH, TOKENS, 4 * 16 * WIDTH, WIDTH * CLASSES)
DECISION = UVCDecision(
    heads=((1,), (), ()),
    dims=(((0, 2), (), (1, 3)), ((3,), (0,), (1,)), ((), (), ())),
    units=((0, 5, 23), (), ()),
    skipped=(2,),
)
RAGGED = UVCDecision(
    heads=((), (0,), ()),
    dims=(((0,), (), (1, 2, 3)), ((), (2,), ()), ((), (), ())),
    units=((), (1, 2), tuple(range(23))),
    skipped=(),
    ragged=True,
)


def small_vit(seed: int = 0, **changes: object) -> VisionTransformer:
    """Three blocks of three heads, on 8×8 images in four patches, with weights far from nothing."""
    torch.manual_seed(seed)
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2, "num_classes": CLASSES}
    settings = {"img_size": 8, "patch_size": 4, "in_chans": 1, **sizes, **changes}
    model = VisionTransformer(**settings)  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def images(count: int = 4, seed: int = 1) -> Tensor:
    """Noise."""
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def answers(model: nn.Module, inputs: Tensor | None = None) -> Tensor:
    """What the model says in eval mode."""
    return model.eval()(images() if inputs is None else inputs)
