"""One convolution instead of two layers: the same values, the same gradients, less kept."""

import itertools

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from torchard.tune.conv_bn import conv_bn, fold, why_not

PAIRS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), lambda: nn.BatchNorm1d(6), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), lambda: nn.BatchNorm2d(6), (2, 4, 7, 8)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), lambda: nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), lambda: nn.BatchNorm2d(6), (2, 4, 8, 7)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), lambda: nn.BatchNorm2d(6), (2, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2), lambda: nn.BatchNorm3d(6), (1, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), lambda: nn.BatchNorm2d(6), (2, 4, 4, 3)),
    "transposed with groups": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        lambda: nn.BatchNorm2d(6),
        (2, 4, 4, 3),
    ),
    "transposed 1d with groups": (
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
        lambda: nn.BatchNorm1d(6),
        (2, 4, 5),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 6, 2), lambda: nn.BatchNorm3d(6), (1, 2, 2, 3, 2)),
    "reflect padding": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        lambda: nn.BatchNorm2d(6),
        (2, 4, 6, 5),
    ),
    "same padding": (
        lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        lambda: nn.BatchNorm2d(6),
        (2, 4, 6, 5),
    ),
    "timm same padding": (lambda: Conv2dSame(4, 6, 3, stride=2), lambda: nn.BatchNorm2d(6), (2, 4, 7, 6)),
    "no affine": (lambda: nn.Conv2d(4, 6, 1), lambda: nn.BatchNorm2d(6, affine=False), (2, 4, 3, 3)),
    "frozen norm": (lambda: nn.Conv2d(4, 6, 1), lambda: FrozenBatchNorm2d(6), (2, 4, 3, 3)),
    "synchronised norm": (lambda: nn.Conv2d(4, 6, 1), lambda: nn.SyncBatchNorm(6), (2, 4, 3, 3)),
    "norm with activation": (lambda: nn.Conv2d(4, 6, 1), lambda: BatchNormAct2d(6), (2, 4, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6), (5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 6, bias=False), lambda: nn.BatchNorm1d(6), (5, 4)),
}


def pair(kind: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    make_conv, make_bn, shape = PAIRS[kind]
    conv, bn = make_conv().double(), make_bn().double().eval()
    tensors = dict([*bn.named_parameters(), *bn.named_buffers()])
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if name == "running_var" else torch.randn_like(tensor)
    return conv, bn, torch.randn(shape).double().requires_grad_()


def gradients(output: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
    return list(torch.autograd.grad(output, tensors, weights))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("kind", PAIRS)
def test_values_and_all_gradients_are_those_of_the_two_layers(kind, recompute):
    conv, bn, x = pair(kind)
    tensors = [x, *conv.parameters(), *bn.parameters()]
    expected = bn(conv(x))
    actual = conv_bn(x, conv, bn, recompute=recompute)
    assert_close(actual, expected)
    for found, wanted in zip(gradients(actual, tensors), gradients(expected, tensors), strict=True):
        assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["conv2d", "transposed with groups", "linear"])
def test_every_choice_of_what_is_trained_passes_gradcheck(kind):
    conv, bn, x = pair(kind)
    tensors = [x, conv.weight, conv.bias, bn.weight, bn.bias]
    for wanted in itertools.product([False, True], repeat=len(tensors)):
        if not any(wanted):
            continue
        for tensor, flag in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(flag)
        inputs = [tensor for tensor in tensors if tensor.requires_grad]
        output = conv_bn(x, conv, bn)
        expected = bn(conv(x))
        for found, value in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
            assert_close(found, value)
    for tensor in tensors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: conv_bn(x, conv, bn), tensors, fast_mode=True)


def test_a_channel_whose_norm_weight_is_zero_gives_its_bias_and_finite_gradients():
    conv, bn, x = pair("conv2d")
    bn.weight.data[2] = 0
    output = conv_bn(x, conv, bn)
    assert torch.equal(output[:, 2], bn.bias[2].expand_as(output[:, 2]))
    tensors = [x, *conv.parameters(), *bn.parameters()]
    for found, wanted in zip(gradients(output, tensors), gradients(bn(conv(x)), tensors), strict=True):
        assert torch.isfinite(found).all()
        assert_close(found, wanted)


def kept(output_of: object) -> int:
    seen: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = output_of()
    del output
    return sum(seen.values())


def test_the_input_is_not_kept_where_only_biases_are_trained():
    conv, bn, x = pair("conv2d")
    whole = kept(lambda: conv_bn(x, conv, bn))
    conv.weight.requires_grad_(False)
    bn.weight.requires_grad_(False)
    assert kept(lambda: conv_bn(x, conv, bn)) == whole - x.nbytes


def test_half_precision_and_autocast_stay_near_the_two_layers():
    conv, bn, x = pair("conv2d")
    expected = bn(conv(x)).float()
    conv, bn, x = conv.bfloat16(), bn.bfloat16(), x.detach().bfloat16().requires_grad_()
    half = conv_bn(x, conv, bn)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.1 * expected.abs().max()
    half.sum().backward()
    assert conv.weight.grad.dtype == torch.bfloat16

    conv, bn, x = pair("conv2d")
    conv, bn, x = conv.float(), bn.float(), x.detach().float()
    for recompute in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = conv_bn(x, conv, bn, recompute=recompute)
        mixed.float().square().sum().backward()
        assert mixed.dtype == torch.bfloat16
        assert conv.weight.grad.dtype == torch.float32


def test_double_backward_is_refused_with_the_way_out_and_works_without_recomputing():
    conv, bn, x = pair("conv2d")
    with pytest.raises(RuntimeError, match="recompute=False"):
        torch.autograd.grad(conv_bn(x, conv, bn).square().sum(), x, create_graph=True)

    def second(output: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), conv.weight)[0]

    assert_close(second(conv_bn(x, conv, bn, recompute=False)), second(bn(conv(x))))


@pytest.mark.parametrize("kind", [kind for kind in PAIRS if kind != "norm with activation"])
def test_a_folded_layer_equals_both(kind):
    conv, bn, x = pair(kind)
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    assert_close(fold(conv, bn)(x), bn(conv(x)))
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


def test_folding_agrees_with_torch():
    conv, bn, _ = pair("groups")
    ours, theirs = fold(conv, bn), fuse_conv_bn_eval(conv.eval(), bn)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_gradient_of_the_folded_weight_times_scale_is_that_of_the_weight():
    conv, bn, x = pair("conv2d")
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    (expected,) = gradients(bn(conv(x)), [conv.weight])
    folded = fold(conv, bn)
    (deployed,) = gradients(folded(x), [folded.weight])
    assert_close(deployed * scale[:, None, None, None], expected)


def test_pairs_that_do_not_fit_are_refused():
    x = torch.zeros(1, 4, 3, 3)
    with pytest.raises(ValueError, match="6 output channels, BatchNorm2d 5"):
        conv_bn(x, nn.Conv2d(4, 6, 1), nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match="no running statistics"):
        conv_bn(x, nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False))
    assert "forward of its own" in why_not(
        type("Other", (nn.Conv2d,), {"forward": lambda s, x: x})(4, 6, 1), nn.BatchNorm2d(6)
    )
    assert "BatchNorm1d" in why_not(nn.Linear(4, 6), nn.BatchNorm2d(6))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_an_impossible_variance_is_refused(value):
    conv, bn, _ = pair("conv2d")
    bn.running_var[1] = value
    with pytest.raises(ValueError, match="negative or NaN"):
        fold(conv, bn)
