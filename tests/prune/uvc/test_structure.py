"""Sizes read from models, and models that are refused by the name of the module."""

import pytest
import timm
import torch
from torch import nn

from tests.prune.uvc.models import SPEC, images, small_vit
from torchard.core.budget import count_macs
from torchard.prune.uvc import Adapter, UnsupportedModel, ViTSpec
from torchard.prune.uvc.structure import example_for


def test_the_sizes_of_a_model_are_read_and_its_operations_add_up():
    model = small_vit()
    assert ViTSpec.from_model(model) == SPEC
    assert SPEC.macs == count_macs(model, images(1))


def test_a_whole_batch_costs_what_one_image_does():
    assert ViTSpec.from_model(small_vit(), images(5)) == SPEC


def test_reading_leaves_the_model_alone():
    model = small_vit().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ViTSpec.from_model(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "changes",
    [
        {"init_values": 0.1},
        {"qk_norm": True},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 2},
        {"qkv_bias": False},
        {"num_heads": 1},
        {"drop_path_rate": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_the_plain_transformer_are_read(changes):
    model = small_vit(**changes)
    assert ViTSpec.from_model(model).macs == count_macs(model, images(1))


def test_two_classifiers_are_two():
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, embed_dim=24, depth=2, num_classes=4
    )
    spec = ViTSpec.from_model(model)
    assert spec.head_macs == 2 * 24 * 4
    assert spec.tokens == 4 + 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4)), "no module blocks"),
        (lambda: timm.create_model("test_resnet"), "no module blocks"),
        (lambda: small_vit(scale_attn_norm=True), r"blocks\.0\.attn\.proj\.weight"),
        (lambda: small_vit(scale_mlp_norm=True), r"blocks\.0\.mlp\.fc2\.weight"),
        (lambda: small_vit(attn_layer="diff", num_heads=2), r"blocks\.0"),
        (lambda: _with(small_vit(), "blocks.1.mlp.fc2", nn.Identity()), r"blocks\.1\.mlp\.fc2 is a Identity"),
        (lambda: _with(small_vit(), "blocks.1.mlp", nn.Identity()), r"no module blocks\.1\.mlp\.fc1"),
        (lambda: _with(small_vit(), "blocks.2", small_vit(mlp_ratio=3).blocks[2]), r"blocks\.2 has sizes"),
    ],
    ids=[
        "no blocks",
        "convolutions",
        "scaled attention",
        "scaled mlp",
        "diff",
        "no fc2",
        "no mlp",
        "unequal",
    ],
)
def test_what_does_not_fit_is_refused_by_name(model, message):
    made = model()
    with pytest.raises(UnsupportedModel, match=message):
        ViTSpec.from_model(made, torch.zeros(1, 1, 8, 8))


def test_attention_that_counts_on_all_its_heads_is_refused():
    """BEiT reshapes to the width of its input, so that a head less would not fit."""
    model = timm.create_model("beit_base_patch16_224", img_size=32, embed_dim=12, depth=1, num_heads=3)
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.attn\.proj\.weight.*relies on"):
        ViTSpec.from_model(model)


def test_the_input_of_a_hybrid_is_that_of_its_first_convolution():
    model = timm.create_model("vit_tiny_r_s16_p8_224", img_size=32, embed_dim=12, depth=1, num_heads=3)
    assert example_for(model).shape == (1, 3, 32, 32)


def test_other_names_are_given_by_an_adapter():
    model = small_vit()
    for block in model.blocks:
        block.mlp.up = block.mlp.fc1
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.mlp\.wide"):
        ViTSpec.from_model(model, adapter=Adapter(fc1="mlp.wide"))
    assert ViTSpec.from_model(model, adapter=Adapter(fc1="mlp.up")) == SPEC


def test_a_model_of_unknown_input_size_asks_for_an_example():
    with pytest.raises(ValueError, match="`example=`"):
        example_for(nn.Linear(3, 3))


def _with(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    model.set_submodule(name, module)
    return model
