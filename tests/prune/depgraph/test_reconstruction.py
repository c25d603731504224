"""Refitting what a cut left: exact where removed units follow from the kept ones, and nearer elsewhere."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from tests.prune.depgraph.networks import Residual, perturbed
from torchard.prune.depgraph import apply, plan, plan_for, reconstruct_, trace
from torchard.prune.depgraph.reconstruction import _fitted, _patches

EXACT = 1e-9  # a ridge that leaves the fit alone


def cut_copy(model: nn.Module, inputs: Tensor, **plan_args):
    """Return a cut copy of ``model`` in eval mode, and the plan."""
    model.eval()
    chosen = plan(trace(model, inputs[:1]), **plan_args)
    return apply(model, chosen, inplace=False).model, chosen


def error(model: nn.Module, original: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return (model(inputs) - original(inputs)).square().mean().item()


class Copies(nn.Module):
    """Its last two hidden units follow from the first two."""

    def __init__(self, *, norm: bool, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        with torch.no_grad():
            self.first.weight[2:] = self.first.weight[:2] * torch.tensor([2.0, -0.5]).view(2, 1, 1, 1)
            self.first.bias[2:] = self.first.bias[:2] * torch.tensor([2.0, -0.5])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.second(self.first(inputs)))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_units_that_follow_from_others_are_removed_without_a_trace(norm, bias):
    torch.manual_seed(0)
    model, inputs = perturbed(Copies(norm=norm, bias=bias)).eval(), torch.randn(16, 3, 9, 9)
    graph = trace(model, inputs[:1])
    hidden = next(
        group.id for group in graph.groups() if any(m.name == "first.weight" for m in group.members)
    )
    chosen = plan_for(graph, {hidden: [2, 3]})
    small = apply(model, chosen, inplace=False).model
    before = error(small, model, inputs)
    assert reconstruct_(small, model, chosen, inputs, ridge=EXACT) == ["second"]
    assert error(small, model, inputs) < 1e-8 < 1e-3 < before


def test_an_output_that_is_shifted_keeps_its_mean():
    """Removed units with a constant mean: a bias, or a batch norm behind, makes up for it."""
    torch.manual_seed(0)
    for model in (
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4)),
    ):
        inputs = torch.randn(400, 6)
        small, chosen = cut_copy(perturbed(model), inputs, ratio=0.5)
        reconstruct_(small, model, chosen, inputs)
        with torch.no_grad():
            torch.testing.assert_close(small(inputs).mean(0), model(inputs).mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (Residual, 6),
        (
            lambda: timm.create_model("test_efficientnet", num_classes=3),
            64,
        ),  # depthwise, activations in norms
        (lambda: timm.create_model("test_resnet", num_classes=3), 64),
        (lambda: timm.create_model("test_vit", num_classes=3), 160),
        (lambda: timm.create_model("test_mambaout", num_classes=3), 64),
        (lambda: timm.create_model("test_convnext", num_classes=3), 64),
    ],
)
def test_real_networks_come_nearer_to_the_original_on_other_inputs(make, size):
    torch.manual_seed(0)
    model = perturbed(make()).eval()
    inputs, others = torch.randn(32, 3, size, size), torch.randn(16, 3, size, size)
    small, chosen = cut_copy(model, inputs, ratio=0.4)
    before = error(small, model, others)
    assert reconstruct_(small, model, chosen, inputs)
    assert error(small, model, others) < 0.7 * before


def test_nothing_but_weights_biases_and_means_changes():
    torch.manual_seed(0)
    model, inputs = Residual(), torch.randn(8, 3, 6, 6)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    small.train()
    small.stem[1].eval()
    small.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = {name: value.clone() for name, value in small.named_buffers()}
    flags = [module.training for module in small.modules()]
    names = reconstruct_(small, model, chosen, inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, held[name]) for name, value in small.named_buffers())
    assert flags == [module.training for module in small.modules()]
    assert not small.head.weight.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "head" in names
    assert "stem.0" not in names  # it lost outputs alone


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(0)
    model, inputs = Residual(), torch.randn(8, 3, 6, 6)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    twin = copy.deepcopy(small)
    reconstruct_(small, model, chosen, inputs)
    torch.rand(3)
    reconstruct_(twin, model, chosen, inputs)
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), twin.state_dict().values()))


class Twice(nn.Module):
    """One layer runs twice, and two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(4, 8), nn.Linear(8, 8)
        self.tied, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.tied.weight = self.head_in = nn.Parameter(torch.randn(8, 8))
        self.other = nn.Linear(8, 8)
        self.other.weight = self.tied.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.twice(self.twice(self.first(inputs)).relu()).relu()
        return self.head(self.other(self.tied(hidden).relu()))


def test_layers_that_run_twice_or_share_a_weight_are_left_alone():
    torch.manual_seed(0)
    model, inputs = Twice(), torch.randn(64, 4)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    before = copy.deepcopy(small.state_dict())
    names = reconstruct_(small, model, chosen, inputs)
    assert names == ["head"]
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name]) or name.startswith("head.")


def test_layers_that_see_positions_where_channels_were_cut_are_left_alone():
    torch.manual_seed(0)
    model = MlpMixer(num_classes=3, img_size=64, num_blocks=1, embed_dim=32)
    inputs = torch.randn(16, 3, 64, 64)
    small, chosen = cut_copy(perturbed(model), inputs, ratio=0.5)
    before = error(small, model, inputs)
    token_mixer = small.blocks[0].mlp_tokens.fc2.weight.clone()
    assert "blocks.0.mlp_tokens.fc2" not in reconstruct_(small, model, chosen, inputs)
    assert torch.equal(small.blocks[0].mlp_tokens.fc2.weight, token_mixer)
    assert error(small, model, inputs) < before


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "valid", "same"]),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
    dims=st.integers(1, 3),
)
def test_patches_are_what_a_convolution_is_computed_from(kernel, stride, dilation, padding, mode, dims):
    torch.manual_seed(0)
    stride = 1 if padding == "same" else stride
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(2, 3, kernel, stride, padding, dilation, padding_mode=mode, dtype=torch.float64)
    inputs = torch.randn(2, 2, *[6 + axis for axis in range(dims)], dtype=torch.float64)
    out = layer(inputs).movedim(1, -1)
    drawn = torch.randperm(out[..., 0].numel())[:5]
    at = torch.unravel_index(drawn, out.shape[:-1])
    rows = _patches(layer, inputs, at)
    made = rows @ layer.weight.flatten(1).T.float() + layer.bias.float()
    torch.testing.assert_close(made, out[at].float(), atol=1e-5, rtol=1e-5)


def test_the_fit_is_the_minimum_and_leaves_silent_inputs_alone():
    torch.manual_seed(0)
    rows, values, prior = torch.randn(50, 4), torch.randn(50, 3), torch.randn(3, 4, dtype=torch.float64)
    rows[:, 2] = 0
    ridge = 0.1
    weight = _fitted(rows, values, prior, ridge).requires_grad_()
    rows, values = rows.double(), values.double()
    hold = ridge * rows.square().mean(0).mean()
    loss = (values - rows @ weight.T).square().sum() / 50 + hold * (weight - prior).square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-6
    torch.testing.assert_close(weight.detach()[:, 2], prior[:, 2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_a_ridge_that_is_not_positive_is_refused(ridge):
    model, inputs = Residual(), torch.randn(2, 3, 6, 6)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    with pytest.raises(ValueError, match=r"ridge=.* must be positive"):
        reconstruct_(small, model, chosen, inputs, ridge=ridge)


def test_a_model_that_the_plan_did_not_make_is_refused():
    model, inputs = Residual(), torch.randn(2, 3, 6, 6)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    with pytest.raises(ValueError, match=r"not `original` cut by this plan: stem\.0\.weight"):
        reconstruct_(model, model, chosen, inputs)
    with pytest.raises(ValueError, match="the plan was made for"):
        reconstruct_(small, small, chosen, inputs)


def test_values_that_are_not_finite_are_refused_by_the_layer_they_reach():
    model, inputs = Residual(), torch.randn(4, 3, 6, 6)
    small, chosen = cut_copy(model, inputs, ratio=0.5)
    inputs[0, 0, 0, 0] = float("nan")
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match=r"stem\.1 meets NaN or infinity"):
        reconstruct_(small, model, chosen, inputs)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not any(module._forward_pre_hooks for module in small.modules())
