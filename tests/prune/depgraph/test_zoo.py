"""A sample of the zoo: real architectures, small, each pruned at half and checked for silent errors."""

import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from torchard.core.budget import count_macs
from torchard.prune.depgraph import apply, plan, trace, verify

# name → size of the example; timm's test models are real architectures with few and narrow layers
SAMPLE = {
    "test_byobnet": 64,
    "test_convnext": 64,
    "test_convnext2": 64,
    "test_convnext3": 64,
    "test_efficientnet": 64,
    "test_efficientnet_gn": 64,
    "test_efficientnet_ln": 64,
    "test_efficientnet_evos": 64,
    "test_mambaout": 64,
    "test_nfnet": 64,
    "test_resnet": 64,
    "test_vit": 160,
    "test_vit2": 160,
    "convnext_atto": 64,
    "test_vit4": 160,
    "tf_efficientnet_lite0": 64,
    "mobilenetv2_100": 64,
    "lcnet_050": 64,
    "regnetx_002": 64,
    "tinynet_e": 64,
    "repvgg_a0": 64,
    "levit_128s": 224,
    "coat_lite_tiny": 224,
    "shufflenet_v2_x0_5": 64,
    "swin": 32,
}


def build(name: str, size: int) -> tuple[nn.Module, torch.Tensor]:
    example = torch.randn(1, 3, size, size)
    if name == "swin":
        model = SwinTransformer(
            img_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(2, 4),
            num_classes=3,
        )
        model.reset_classifier(3)
        return model, example
    if name.startswith("shufflenet"):
        return torchvision.models.get_model(name, weights=None, num_classes=3), example
    return timm.create_model(name, num_classes=3), example


@pytest.mark.parametrize("name", SAMPLE)
def test_a_real_architecture_prunes_at_half_without_hints_or_errors(name):
    model, example = build(name, SAMPLE[name])
    graph = trace(model, example)
    chosen = plan(graph, ratio=0.5, criterion="random", seed=1)
    checked = verify(model, chosen, example)
    assert checked.error < 1e-5 < checked.moved, checked
    apply(model, chosen)
    assert chosen.macs[1] == count_macs(model, example)
    assert chosen.macs[1] < 0.5 * chosen.macs[0]
    assert not graph.unknown
    logits = model.train()(torch.cat([example, example]))
    logits = logits[0] if isinstance(logits, tuple) else logits
    assert logits.shape == (2, 3)
    logits.sum().backward()
