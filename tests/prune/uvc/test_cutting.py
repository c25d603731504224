"""Masked and exported models answer alike, and cost what was reckoned."""

import copy

import pytest
import timm
import torch

from tests.prune.uvc.models import DECISION, DEPTH, RAGGED, SPEC, answers, images, small_vit
from torchard.core.budget import count_macs
from torchard.prune.uvc import (
    Gates,
    NarrowAttention,
    Skipped,
    UnsupportedModel,
    UVCDecision,
    attach,
    export,
    mask,
)
from torchard.prune.uvc.structure import parts_of

VARIANTS = [{}, {"qkv_bias": False}, {"qk_norm": True}, {"init_values": 0.3}, {"reg_tokens": 1}]


@pytest.mark.parametrize("decision", [DECISION, RAGGED], ids=["tied", "ragged"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_masked_and_exported_models_agree(decision, changes):
    model = small_vit(**changes)
    small = export(model, decision)
    torch.testing.assert_close(answers(small), answers(mask(model, decision)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(answers(small), answers(model), atol=1e-3)


def test_two_classifiers_and_a_distillation_token_are_carried_along():
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, embed_dim=12, depth=3, num_heads=3, num_classes=4
    )
    decision = UVCDecision(((1,), (), ()), DECISION.dims, ((), tuple(range(9)), ()), (2,))
    inputs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        answers(export(model, decision), inputs), answers(mask(model, decision), inputs), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("decision", [DECISION, RAGGED], ids=["tied", "ragged"])
def test_the_exported_model_costs_what_was_reckoned(decision):
    assert count_macs(export(small_vit(), decision), images(1)) == decision.macs(SPEC)


def test_removing_nothing_changes_no_bit():
    model = small_vit()
    kept = export(model, UVCDecision.dense(SPEC))
    assert torch.equal(answers(kept), answers(model))
    assert not any(isinstance(module, NarrowAttention | Skipped) for module in kept.modules())


@pytest.mark.parametrize("make", [mask, export])
def test_the_given_model_stays_as_it_was(make):
    model = small_vit().train()
    before = copy.deepcopy(model.state_dict())
    made = make(model, DECISION)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in made.modules())
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_sizes_shrink_where_they_should():
    small = export(small_vit(), DECISION)
    first, second = small.blocks[0], small.blocks[1]
    assert first.attn.num_heads == 2
    assert first.attn.qkv.out_features == 2 * 2 * 4 + 2 * 2
    assert first.attn.proj.in_features == 4
    assert first.mlp.fc1.out_features == first.mlp.fc2.in_features == 21
    assert second.attn.qkv.out_features == 2 * 12 + 9
    assert isinstance(small.blocks[2], Skipped)


def test_queries_and_keys_keep_their_width_and_scale():
    model = small_vit()
    small = export(model, DECISION)
    assert small.blocks[1].attn.scale == model.blocks[1].attn.scale
    rows = model.blocks[1].attn.qkv.weight[:24]
    assert torch.equal(small.blocks[1].attn.qkv.weight[:24], rows)


def test_an_exported_model_can_be_trained_and_exported_by_torch():
    small = export(small_vit(), RAGGED)
    small.train()(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    program = torch.export.export(small.eval(), (images(2),))
    torch.testing.assert_close(program.module()(images(2)), answers(small, images(2)))


def test_masks_are_passed_on_to_narrow_attention():
    torch.manual_seed(0)
    model = small_vit()
    decision = UVCDecision(((), (), ()), (((0,), (1,), (2,)),) * 3, ((), (), ()), ())
    narrow, masked = export(model, decision).blocks[0].eval(), mask(model, decision).blocks[0].eval()
    tokens = torch.randn(2, 5, 12)
    hidden = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(narrow(tokens, attn_mask=hidden), masked(tokens, attn_mask=hidden))
    torch.testing.assert_close(narrow(tokens, is_causal=True), masked(tokens, is_causal=True))


def test_gates_at_work_are_left_behind():
    model = small_vit()
    expected = answers(export(model, DECISION))
    attach(model, Gates(DEPTH), [block.name for block in parts_of(model)])
    small = export(model, DECISION)
    assert torch.equal(answers(small), expected)
    assert not any(module._forward_hooks for module in small.modules())


def test_values_of_other_attention_cannot_be_narrowed_but_its_heads_and_units_go():
    class Renamed(type(small_vit().blocks[0].attn)):
        pass

    model = small_vit()
    for block in model.blocks:
        block.attn.__class__ = Renamed
    with pytest.raises(UnsupportedModel, match=r"blocks\.0.*Renamed.*'dims'"):
        export(model, DECISION)
    decision = UVCDecision(DECISION.heads, (((),) * 3,) * 3, DECISION.units, ())
    torch.testing.assert_close(answers(export(model, decision)), answers(mask(model, decision)))


def test_a_decision_for_another_model_is_refused_and_nothing_is_done():
    with pytest.raises(ValueError, match="3 blocks, the model has 2"):
        export(small_vit(depth=2), DECISION)
