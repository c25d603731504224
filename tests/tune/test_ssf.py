"""SSF against doing the arithmetic by hand, and against the paper's own counts."""

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.contracts.cases import TransformCase
from tests.tune.models import images, make
from torchard.tune import NotMergeableError, ScaleShift, ssf

FAMILIES = ["vit", "swin", "convnext", "resnet", "efficientnet"]


def attach_random(model: nn.Module, **options: object) -> nn.Module:
    return ssf.attach(model, init_std=0.3, **options)


@pytest.mark.parametrize(
    ("name", "layout", "sites", "parameters"),
    [
        ("vit_base_patch16_224", "all", 74, 205_824),
        ("vit_base_patch16_224", "official", 74, 205_824),
        ("swin_base_patch4_window7_224", "official", 147, 267_264),
        ("swin_base_patch4_window7_224", "all", 153, 278_016),
        ("convnext_base", "official", 147, 255_232),
        ("convnext_base", "all", 153, 260_608),
    ],
)
def test_counts_are_those_of_the_authors_code_and_of_the_rule(name, layout, sites, parameters):
    with torch.device("meta"):
        model = ssf.attach(timm.create_model(name, num_classes=100), layout=layout)
    summary = ssf.summary(model)
    assert (len(summary.sites), summary.adapter_params) == (sites, parameters)
    if name.startswith("vit"):
        assert summary.adapter_params + summary.also_train_params == 282_724  # the paper's 0.28 M


def test_official_layout_trains_the_head_norm_of_convnext_and_cannot_merge():
    model = ssf.attach(make("convnext"), layout="official", sample=images("convnext"))
    trained = ssf.trainable_parameters(model)
    assert {"head.norm.weight", "head.norm.bias"} <= trained.keys()
    assert "norm_pre.scale" in trained
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(NotMergeableError, match="norm_pre: a Identity has no weight"):
        ssf.merge(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_official_layout_is_refused_where_the_authors_define_none():
    with pytest.raises(ValueError, match="not for ResNet"):
        ssf.attach(make("resnet"), layout="official")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_identity_start_leaves_the_output_bit_identical(family):
    model, inputs = make(family), images(family)
    expected = model(inputs)
    assert torch.equal(ssf.attach(model, init="identity", sample=inputs)(inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_output_equals_unmerged_and_unmerge_restores_every_bit(family, skip):
    model, inputs = make(family), images(family)
    base = model(inputs)
    attach_random(model, sample=inputs, skip_before_batchnorm=skip)
    assert (model(inputs) - base).abs().max() > 1e-3 * base.abs().max()
    check_merging_is_exact(model, inputs)


def check_merging_is_exact(model: nn.Module, inputs: torch.Tensor) -> None:
    """Merged it answers the same; unmerged it is the same, bit for bit."""
    expected = model(inputs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = ssf.merge(model)(inputs)
    assert (merged - expected).abs().max() <= 1e-10 * expected.abs().max()
    ssf.unmerge(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(inputs), expected)


NARROW = {"img_size": 32, "depth": 2, "embed_dim": 24}
SHRUNK_SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "patch_size": 2}
OTHERS: dict[str, tuple[int, dict[str, Any]]] = {
    "cait_xxs24_224": (32, {**NARROW, "patch_size": 8, "num_heads": 2}),
    "xcit_nano_12_p8_224": (32, {**NARROW, "num_heads": 2}),
    "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "mobilenetv4_conv_small": (64, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "test_convnext2": (32, {}),
    # These three keep the biases of queries and values apart from the layer, so it is left out.
    "swinv2_tiny_window8_256": (32, {"img_size": 32, "window_size": 2, **SHRUNK_SWIN}),
    "eva02_tiny_patch14_224": (28, {**NARROW, "img_size": 28, "num_heads": 2}),
    "beit_base_patch16_224": (32, {**NARROW, "num_heads": 3}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_merge_and_unmerge_are_exact_in_other_families_of_timm(name):
    size, options = OTHERS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options).double().eval()
    inputs = torch.randn(1, 3, size, size, dtype=torch.float64)
    base = model(inputs)
    exclude = ["*.attn.qkv"] if name.startswith(("swinv2", "eva", "beit")) else []
    attach_random(model, sample=inputs, exclude=exclude)
    assert (model(inputs) - base).abs().max() > 1e-5 * base.abs().max()
    check_merging_is_exact(model, inputs)


@torch.no_grad()
def test_merging_in_float32_agrees_to_five_digits():
    model, inputs = make("vit").float(), images("vit").float()
    expected = attach_random(model)(inputs)
    assert (ssf.merge(model)(inputs) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_swin_downsampling_gains_a_bias_and_loses_it_again():
    model = attach_random(make("swin"))
    reduction = model.get_submodule("layers.1.downsample.reduction")
    assert reduction.bias is None
    ssf.merge(model)
    assert (reduction.bias.shape, reduction.bias.dtype) == (reduction.weight.shape[:1], torch.float64)
    ssf.unmerge(model)
    assert reduction.bias is None


def test_every_site_of_a_vit_block_is_there():
    model = ssf.attach(make("vit"))
    block = [path for path in ssf.summary(model).sites if path.startswith("blocks.0.")]
    assert block == [
        f"blocks.0.{name}" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    assert {"patch_embed.proj", "norm"} <= set(ssf.summary(model).sites)
    assert not any(path.startswith("head") for path in ssf.summary(model).sites)


def test_initial_values_follow_the_paper_and_the_seed():
    torch.manual_seed(3)
    module = ScaleShift(20_000, 1)
    assert abs(module.scale.mean() - 1) < 1e-3
    assert abs(module.shift.mean()) < 1e-3
    assert abs(module.scale.std() - 0.02) < 1e-3
    assert abs(module.shift.std() - 0.02) < 1e-3
    torch.manual_seed(3)
    assert torch.equal(ScaleShift(20_000, 1).scale, module.scale)


def test_a_map_as_wide_as_its_channels_is_scaled_on_axis_one():
    model = attach_random(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 6 * 8, 2)))
    site = model[0].torchard_adapters["default"]
    inputs = torch.randn(2, 3, 6, 8)
    with ssf.disabled(model):
        maps = model[0](inputs)
    expected = site.scale[:, None, None] * maps + site.shift[:, None, None]
    torch.testing.assert_close(model[0](inputs), expected)


def test_convolutions_before_a_batch_norm_are_skipped_unless_asked_for():
    with_skip = ssf.summary(ssf.attach(make("resnet"))).sites
    without = ssf.summary(ssf.attach(make("resnet"), skip_before_batchnorm=False)).sites
    assert len(without) == 2 * len(with_skip) == 30
    explicit = ssf.summary(ssf.attach(make("resnet"), targets=["conv1"])).sites
    assert explicit == tuple(f"conv1.{i}" for i in (0, 1, 3, 4, 6))


def test_batch_norm_in_train_mode_gives_the_convolution_before_it_no_gradient():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-12), nn.ReLU(), nn.Conv2d(4, 2, 3)
    ).double()
    with pytest.warns(UserWarning, match="1 batch norms of Sequential are in train mode"):
        ssf.attach(model, also_train=None, targets=["0", "3"])
    model(torch.randn(6, 3, 8, 8).double()).square().sum().backward()
    before, after = (model[i].torchard_adapters["default"] for i in (0, 3))
    assert before.scale.grad.abs().max() <= 1e-6
    assert before.shift.grad.abs().max() <= 1e-6
    assert after.scale.grad.abs().max() > 1e-2


def test_activations_inside_a_norm_come_after_the_scale():
    model, inputs = make("efficientnet"), images("efficientnet")
    attach_random(model, sample=inputs)
    norm = model.get_submodule("bn1")
    site = norm.torchard_adapters["default"]
    maps = torch.randn(2, len(site.scale), 4, 4).double()
    plain = nn.functional.batch_norm(
        maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    expected = norm.act(site.scale[:, None, None] * plain + site.shift[:, None, None])
    torch.testing.assert_close(norm(maps), expected)


def test_weight_standardised_convolutions_refuse_to_merge():
    torch.manual_seed(0)
    model = attach_random(timm.create_model("test_nfnet", num_classes=3).eval())
    with pytest.raises(NotMergeableError, match="ScaledStdConv2d does more to its weight"):
        ssf.merge(model)


def test_norms_without_bias_get_a_scale_alone_and_merge():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.RMSNorm(6), nn.Linear(6, 2)).double()
    attach_random(model)
    assert model[1].torchard_adapters["default"].shift is None
    inputs = torch.randn(3, 4).double()
    expected = model(inputs)
    torch.testing.assert_close(ssf.merge(model)(inputs), expected, rtol=1e-10, atol=1e-12)


def test_scale_alone_equals_ia3_of_peft():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    config = peft.IA3Config(target_modules=["0"], feedforward_modules=[], init_ia3_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    vector = next(p for name, p in theirs.named_parameters() if "ia3_l" in name)
    ssf.attach(model, targets=["0"], init="identity", also_train=None)
    model[0].torchard_adapters["default"].scale.data.copy_(vector.data.flatten())
    inputs = torch.randn(5, 4).double()
    torch.testing.assert_close(model(inputs), theirs(inputs), rtol=1e-6, atol=1e-6)


def test_training_moves_only_scales_shifts_and_the_classifier():
    model, inputs = make("vit").train(), images("vit", 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ssf.attach(model)
    optimizer = torch.optim.AdamW(ssf.parameter_groups(model, lr=1e-2, weight_decay=0.05))
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(inputs), torch.arange(4))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    moved = {key for key, value in before.items() if not torch.equal(model.state_dict()[key], value)}
    assert moved == {"head.weight", "head.bias"}


def test_half_precision_layers_get_float32_scales_and_half_outputs():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).bfloat16()
    attach_random(model)
    assert model[0].torchard_adapters["default"].scale.dtype == torch.float32
    inputs = torch.randn(3, 4).bfloat16()
    expected = model(inputs)
    assert expected.dtype == torch.bfloat16
    torch.testing.assert_close(ssf.merge(model)(inputs), expected, rtol=0.05, atol=0.05)


def test_a_channel_mismatch_names_the_layer_and_both_sizes():
    module = ScaleShift(4, 1, path="stem.conv")
    with pytest.raises(ValueError, match=r"at stem.conv expect 4 channels on axis 1, .* shape \(2, 3\)"):
        module(torch.zeros(2, 3))


@pytest.mark.parametrize("options", [{"init": "ones"}, {"layout": "paper"}, {"init_std": -1.0}], ids=str)
def test_unknown_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"init|layout|init_std"):
        ssf.SSFConfig(**options)


def test_a_model_whose_norms_are_in_eval_mode_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ssf.attach(make("resnet"))


def contract_case() -> TransformCase:
    return TransformCase(
        build=lambda: make("vit").float(),
        inputs=images("vit").float(),
        apply=ssf.attach,
        undo=ssf.detach,
        save=ssf.save,
        load=ssf.load,
    )
