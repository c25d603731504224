"""Attention that takes its scale from a width answers after the cut as with the removed units silenced."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchard.prune.depgraph import Plan, apply, mask, plan, trace, verify

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Attention(nn.Module):
    """Four heads of width 8, with rotary positions, the scale in one of several places."""

    def __init__(self, scale: str, *, norm: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.inputs, self.outputs = nn.Linear(8, 32), nn.Linear(32, 3)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        if shared:
            self.key = self.query

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.inputs(inputs)
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(hidden).unflatten(-1, (4, -1)).transpose(1, 2) for layer in layers)
        q, k = rotated(self.norm(q)), rotated(k)
        return self.outputs(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        width = q.shape[-1]
        match self.scale:
            case "kernel":
                return F.scaled_dot_product_attention(q, k, v)
            case "query":
                return (q * width**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
            case "query goes on":
                return F.scaled_dot_product_attention(q, k, v) + q
            case "both go on":
                return F.scaled_dot_product_attention(q, k, v) + q + k
            case "sum":  # of the squares of units: nothing before it can make up for the number of units
                return torch.sigmoid(q.square().sum(-1, keepdim=True) / width) * v
        return (q @ k.transpose(-2, -1) / width**0.5).softmax(-1) @ v


class Packed(nn.Module):
    """PyTorch's own attention, with or without the weights it can return."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.inputs, self.outputs = nn.Linear(8, 32), nn.Linear(32, 3)
        self.attention, self.weights = nn.MultiheadAttention(32, 4, batch_first=True), weights

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.inputs(inputs)
        return self.outputs(self.attention(hidden, hidden, hidden, need_weights=self.weights)[0])


def rotated(maps: Tensor) -> Tensor:
    angles = torch.linspace(0, 1, maps.shape[-2], dtype=maps.dtype).unsqueeze(-1)
    left, right = maps.chunk(2, -1)
    return maps * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


def half(model: nn.Module) -> Plan:
    return plan(trace(model, X), ratio=0.5, criterion="random", seed=0)


def answers(model: nn.Module, chosen: Plan) -> tuple[Tensor, Tensor]:
    """Of the model with removed units set to zero, and of the cut one."""
    silenced, cut = copy.deepcopy(model), apply(model, chosen, inplace=False).model
    mask(silenced, chosen)
    with torch.no_grad():
        return silenced(X), cut(X)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Attention("kernel"),
        lambda: Attention("query"),
        lambda: Attention("scores"),
        lambda: Packed(weights=False),
        lambda: Packed(weights=True),
    ],
    ids=["kernel", "query", "scores", "packed", "packed with weights"],
)
def test_the_cut_attention_equals_the_silenced_one(model):
    """Zeros add nothing to scores, so only the scale could differ; checked without the replay."""
    torch.manual_seed(0)
    network = model().double()
    chosen = half(network)
    silenced, cut = answers(network, chosen)
    torch.testing.assert_close(cut, silenced, rtol=1e-12, atol=1e-12)
    assert "changes_scale" not in chosen.tags
    assert [factor for *_, factor in chosen.rescaled] == pytest.approx([(4 / 8) ** 0.5] * 2)


def test_without_the_correction_the_answers_differ():
    torch.manual_seed(0)
    network = Attention("scores").double()
    chosen = half(network)
    data = chosen.to_json() | {"rescaled": []}
    silenced, cut = answers(network, Plan.from_json(data))
    assert (cut - silenced).abs().max() > 1e-4


def test_only_the_rows_of_the_queries_are_scaled():
    torch.manual_seed(0)
    network = Packed(weights=False).double()
    chosen = half(network)
    assert {(name, tuple(rows)) for name, _, rows, _ in chosen.rescaled} == {
        ("attention.in_proj_weight", tuple(range(16))),
        ("attention.in_proj_bias", tuple(range(16))),
    }


def test_a_norm_of_the_queries_is_scaled_rather_than_the_layer_before_it():
    network = Attention("kernel", norm=True).double()
    chosen = half(network)
    assert {name for name, *_ in chosen.rescaled} == {"norm.weight", "norm.bias"}
    assert verify(network, chosen, X).passed


def test_the_keys_are_scaled_where_the_queries_go_elsewhere_too():
    torch.manual_seed(0)
    network = Attention("query goes on").double()
    chosen = half(network)
    assert {name for name, *_ in chosen.rescaled} == {"key.weight", "key.bias"}
    silenced, cut = answers(network, chosen)
    torch.testing.assert_close(cut, silenced, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [lambda: Attention("kernel", shared=True), lambda: Attention("both go on"), lambda: Attention("sum")],
    ids=["shared", "both go on", "sum"],
)
def test_what_nothing_can_make_up_for_is_left_and_tagged(model):
    """A layer of queries and keys cannot scale one of them, nor one whose output goes elsewhere as well."""
    torch.manual_seed(0)
    network = model().double()
    chosen = half(network)
    assert chosen.rescaled == []
    assert "changes_scale" in chosen.tags
    assert verify(network, chosen, X).passed


def test_a_plan_keeps_its_corrections_through_json():
    chosen = half(Attention("kernel").double())
    assert Plan.from_json(chosen.to_json()) == chosen


def test_two_steps_scale_as_one():
    torch.manual_seed(0)
    network = Attention("scores").double()
    apply(network, plan(trace(network, X), ratio=0.25, criterion="random", seed=0))
    again = plan(trace(network, X), ratio=1 / 3, criterion="random", seed=0)
    silenced, cut = answers(network, again)
    torch.testing.assert_close(cut, silenced, rtol=1e-12, atol=1e-12)
    assert [factor for *_, factor in again.rescaled] == pytest.approx([(4 / 6) ** 0.5] * 2)


def test_a_vision_transformer_needs_no_tag():
    network = timm.create_model("test_vit", num_classes=3)
    images = torch.randn(1, 3, 160, 160)
    chosen = plan(trace(network, images), ratio=0.5, criterion="random", seed=0)
    assert "changes_scale" not in chosen.tags
    assert verify(network, chosen, images).passed
