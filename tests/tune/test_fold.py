"""Folding a scale and shift into a layer, against doing it to the layer's output."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import LayerNorm2d, RmsNorm, RmsNorm2d
from torch import nn
from torch.func import functional_call
from torchvision.ops import FrozenBatchNorm2d

from torchard.tune.fold import channel_axis, channels, fold_affine, takes_shift

LAYERS = {
    "linear": (lambda: nn.Linear(6, 8), (3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 8, bias=False), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), (2, 6, 7)),
    "grouped dilated conv2d": (lambda: nn.Conv2d(6, 8, 3, groups=2, dilation=2, bias=False), (2, 6, 9, 8)),
    "reflecting conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (2, 6, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 8, 2), (1, 2, 3, 4, 5)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(6, 8, 3), (2, 6, 7)),
    "grouped transposed conv2d": (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2, stride=2), (2, 6, 4, 3)),
    "grouped transposed conv3d": (lambda: nn.ConvTranspose3d(4, 8, 2, groups=4, bias=False), (1, 4, 2, 3, 2)),
    "layer norm": (lambda: nn.LayerNorm(8), (2, 5, 8)),
    "layer norm over two axes": (lambda: nn.LayerNorm((5, 8)), (2, 5, 8)),
    "layer norm without affine": (lambda: nn.LayerNorm(8, elementwise_affine=False), (2, 5, 8)),
    "layer norm of maps": (lambda: LayerNorm2d(8), (2, 8, 4, 8)),
    "group norm": (lambda: nn.GroupNorm(2, 8), (2, 8, 4, 3)),
    "group norm without affine": (lambda: nn.GroupNorm(2, 8, affine=False), (2, 8, 4, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(8), (2, 8, 4, 3)),
    "batch norm without affine": (lambda: nn.BatchNorm1d(8, affine=False), (4, 8)),
    "frozen batch norm": (lambda: FrozenBatchNorm2d(8), (2, 8, 4, 3)),
    "rms norm": (lambda: nn.RMSNorm(8), (2, 5, 8)),
    "timm rms norm": (lambda: RmsNorm(8), (2, 5, 8)),
    "timm rms norm of maps": (lambda: RmsNorm2d(8), (2, 8, 4, 3)),
}


def randomised(layer: nn.Module) -> nn.Module:
    layer = layer.double().eval()
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.2
    return layer


def with_parameters(layer: nn.Module, tensors: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    for name in tensors:
        if getattr(layer, name, None) is None:
            layer._parameters[name] = nn.Parameter(torch.empty(0))
    return functional_call(layer, tensors, inputs)


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_folded_layer_equals_layer_then_scale_and_shift(make, shape):
    layer = randomised(make())
    inputs = torch.randn(shape).double()
    scale, shift = torch.randn(8).double(), torch.randn(8).double()
    if not takes_shift(layer):
        shift = torch.zeros(8).double()
    view = [1] * len(shape)
    view[channel_axis(layer)] = -1
    expected = scale.view(view) * layer(inputs) + shift.view(view)
    before = {name: value.clone() for name, value in layer.state_dict().items()}

    folded = fold_affine(layer, scale, shift)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(with_parameters(layer, folded, inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_channels_is_the_size_of_the_channel_axis(make, shape):
    layer = randomised(make())
    output = layer(torch.randn(shape).double())
    assert output.shape[channel_axis(layer)] == channels(layer) == 8


@given(first=st.integers(0, 2**31), second=st.integers(0, 2**31))
def test_folding_twice_composes_the_affine_maps(first, second):
    draw = [torch.Generator().manual_seed(seed) for seed in (first, second)]
    scales = [torch.randn(4, generator=g, dtype=torch.float64) for g in draw]
    shifts = [torch.randn(4, generator=g, dtype=torch.float64) for g in draw]
    layer = nn.Linear(3, 4).double()
    once = fold_affine(layer, scales[0], shifts[0])
    holder = nn.Linear(3, 4).double()
    holder.load_state_dict(once)
    twice = fold_affine(holder, scales[1], shifts[1])
    together = fold_affine(layer, scales[1] * scales[0], scales[1] * shifts[0] + shifts[1])
    for name in ("weight", "bias"):
        torch.testing.assert_close(twice[name], together[name], rtol=1e-12, atol=1e-12)


def test_half_precision_weights_stay_half_precision():
    folded = fold_affine(nn.Linear(3, 4).bfloat16(), torch.rand(4), torch.rand(4))
    assert {value.dtype for value in folded.values()} == {torch.bfloat16}


def test_a_shift_after_a_norm_without_bias_is_refused():
    with pytest.raises(ValueError, match="RMSNorm has no bias"):
        fold_affine(nn.RMSNorm(4), torch.ones(4), torch.ones(4))


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"`scale` has 3 entries, but Linear has 4"):
        fold_affine(nn.Linear(2, 4), torch.ones(3), None)


def test_a_layer_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="ReLU is no linear, convolution or normalisation layer"):
        channels(nn.ReLU())
