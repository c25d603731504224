"""A convolution and the batch norm after it as one convolution, computed anew at every call.

With running statistics, batch norm multiplies each output channel of the convolution by a number and adds
another, so both can be moved into weight and bias: ``(s W) * x + (shift + s (b - mean))``. Values and
gradients are those of the two layers; what the backward pass must keep is the convolution's input alone.
"""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils.checkpoint import checkpoint

from torchard.tune.adapters.site_adapter import inner_step
from torchard.tune.fold import scale_output

_PLAIN_FORWARDS = {kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)} | {
    kind.forward for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
}


def conv_bn(
    x: Float[Tensor, "..."], conv: nn.Module, bn: nn.Module, *, recompute: bool = True
) -> Float[Tensor, "..."]:
    """Return ``bn(conv(x))`` with the running statistics of ``bn``, computed as one convolution.

    You et al. 2024 (Tune mode). The product of scale and weight is computed anew in the backward pass, so
    that nothing of the weights' size is kept; ``recompute=False`` leaves it to autograd, which keeps it, but
    allows double backward. An activation inside ``bn`` (timm's ``BatchNormAct2d``) is applied.

    Raises:
        ValueError: if the two do not fit, the norm has no running statistics, or a layer does more than its
            type says.
    """
    reason = why_not(conv, bn)
    if reason:
        raise ValueError(f"`conv` and `bn` cannot be computed as one: {reason}.")
    return after_norm(bn, fused(x, conv, bn, recompute=recompute))


def fold(conv: nn.Module, bn: nn.Module) -> nn.Module:
    """Return a new layer like ``conv`` whose weight and bias contain ``bn`` (without its activation).

    Raises:
        ValueError: as :func:`conv_bn`, or if the norm's statistics hold NaN or a negative variance.
    """
    reason = why_not(conv, bn)
    if reason:
        raise ValueError(f"`conv` and `bn` cannot be folded: {reason}.")
    variance: Any = bn.running_var
    if not bool((variance >= 0).all()):
        raise ValueError("`bn` has a running variance that is negative or NaN.")
    with torch.no_grad():
        weight, bias = folded_tensors(conv, bn)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)  # type: ignore[arg-type]
    folded.bias = nn.Parameter(bias)
    return folded


def folded_tensors(conv: nn.Module, bn: nn.Module) -> tuple[Float[Tensor, "..."], Float[Tensor, " c"]]:
    """Return weight and bias of the one convolution that equals both layers, differentiable in theirs.

    Computed in float32 at least, and returned in the weight's type.
    """
    terms = _terms(conv, bn)
    scale = _scale(terms)
    weight = scale_output(conv, terms.weight.to(scale.dtype), scale).to(terms.weight.dtype)
    return weight, _folded_bias(terms, scale).to(terms.weight.dtype)


def fused(x: Tensor, conv: nn.Module, bn: nn.Module, *, recompute: bool) -> Tensor:
    """Return the normalised output, without the norm's own activation; the pair is known to fit."""
    dtype = _autocast_type(x)
    x = x if dtype is None else x.to(dtype)
    if not recompute or torch.compiler.is_compiling():
        weight, bias = _traced_tensors(conv, bn, recompute=recompute)
        return _call(conv, x, weight.to(x.dtype), bias.to(x.dtype))
    terms = _terms(conv, bn)
    padded, padding = _padded(conv, x)
    tensors = (terms.weight, terms.bias, terms.gamma, terms.beta, terms.mean, terms.variance)
    output: Tensor = _RecomputedConvBN.apply(padded, *tensors, _Call(conv, terms.eps, padding))
    return output


def _traced_tensors(conv: nn.Module, bn: nn.Module, *, recompute: bool) -> tuple[Tensor, Tensor]:
    """The folded tensors by autograd, for a compiler marked as to be computed again in the backward pass."""
    if not recompute or torch.compiler.is_exporting():
        return folded_tensors(conv, bn)
    # Left to itself the partitioner (torch 2.14) keeps every scaled weight: it recomputes nothing that the
    # backward pass hands to convolutions alone.
    found: tuple[Tensor, Tensor] = checkpoint(folded_tensors, conv, bn, use_reentrant=False)
    return found


def after_norm(bn: nn.Module, normalised: Tensor) -> Tensor:
    """Apply what a norm does after normalising: timm's drop and activation, or nothing."""
    step = inner_step(bn)
    return normalised if step is None else bn.act(step(normalised))  # type: ignore[operator]


def uses_running_statistics(bn: nn.Module) -> bool:
    """Whether the norm, in its present mode, computes with stored statistics."""
    if not isinstance(bn, _BatchNorm):
        return True  # frozen batch norms always do
    return not bn.training and bn.running_var is not None


def why_not(conv: nn.Module, bn: nn.Module) -> str:
    """Return why the two cannot be computed as one convolution, or an empty text if they can."""
    if type(conv).forward not in _PLAIN_FORWARDS:
        return f"{type(conv).__name__} has a forward of its own"
    if isinstance(conv, nn.Linear) and not isinstance(bn, nn.BatchNorm1d):
        return f"a linear layer goes with BatchNorm1d, not {type(bn).__name__}"
    variance = getattr(bn, "running_var", None)
    if variance is None:
        return "the batch norm keeps no running statistics"
    width = conv.out_features if isinstance(conv, nn.Linear) else conv.out_channels
    if len(variance) != width:
        return f"{type(conv).__name__} has {width} output channels, {type(bn).__name__} {len(variance)}"
    return ""


class _Terms(NamedTuple):
    """The tensors of a pair; ``None`` for a bias, weight or shift that is not there."""

    weight: Tensor
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor
    variance: Tensor
    eps: float


# Functions, not methods: Dynamo traces no methods of named tuples.
def _terms(conv: Any, bn: Any) -> _Terms:
    return _Terms(conv.weight, conv.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)


def _inverse_deviation(terms: _Terms) -> Tensor:
    wide = torch.promote_types(torch.promote_types(terms.variance.dtype, terms.weight.dtype), torch.float32)
    return torch.rsqrt(terms.variance.to(wide) + terms.eps)


def _scale(terms: _Terms) -> Tensor:
    inverse = _inverse_deviation(terms)
    return inverse if terms.gamma is None else terms.gamma.to(inverse.dtype) * inverse


def _folded_bias(terms: _Terms, scale: Tensor) -> Tensor:
    offset = -terms.mean.to(scale.dtype)
    if terms.bias is not None:
        offset = offset + terms.bias.to(scale.dtype)
    shift = scale * offset
    return shift if terms.beta is None else shift + terms.beta.to(scale.dtype)


class _Call(NamedTuple):
    """How a layer is applied: itself, the norm's eps, and the padding left after explicit padding."""

    conv: Any
    eps: float
    padding: tuple[int, ...]


class _RecomputedConvBN(torch.autograd.Function):
    """Convolution with scaled weights that keeps its input and the parameters, and no product of them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        call: _Call,
    ) -> Tensor:
        terms = _Terms(weight, bias, gamma, beta, mean, variance, call.eps)
        scale = _scale(terms)
        product = scale_output(call.conv, weight.to(scale.dtype), scale).to(x.dtype)
        # Without a gradient for weight or scale, the input's values are not needed, only its shape.
        needs_input = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        ctx.save_for_backward(x if needs_input else None, weight, bias, gamma, beta, mean, variance)
        ctx.call, ctx.shape, ctx.dtype = call, x.shape, x.dtype
        return _convolve(call, x, product, _folded_bias(terms, scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Tune mode recomputes its weights in the backward pass and cannot be differentiated twice; "
                "use `recompute=False` for `create_graph=True`."
            )
        x, weight, bias, gamma, beta, mean, variance = ctx.saved_tensors
        terms = _Terms(weight, bias, gamma, beta, mean, variance, ctx.call.eps)
        needs = ctx.needs_input_grad
        through = _convolution_gradients(ctx, gradients[0], x, terms, needs)
        return (*_parameter_gradients(ctx.call.conv, terms, through, needs), None, None, None)


def _convolution_gradients(
    ctx: Any, gradient: Tensor, x: Tensor | None, terms: _Terms, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, scaled weight and folded bias."""
    scale = _scale(terms)
    product = scale_output(ctx.call.conv, terms.weight.to(scale.dtype), scale).to(ctx.dtype)
    inputs = gradient.new_empty(1).expand(ctx.shape) if x is None else x
    mask = [needs[0], needs[1] or needs[3], needs[2] or needs[3] or needs[4]]
    conv = ctx.call.conv
    if isinstance(conv, nn.Linear):
        return (
            gradient @ product if mask[0] else None,
            gradient.T @ inputs if mask[1] else None,
            gradient.sum(dim=0) if mask[2] else None,
        )
    transposed = isinstance(conv, _ConvTransposeNd)
    output_padding = conv.output_padding if transposed else (0,) * len(ctx.call.padding)
    found: Any = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        product,
        [len(terms.mean)],
        conv.stride,
        ctx.call.padding,
        conv.dilation,
        transposed,
        output_padding,
        conv.groups,
        mask,
    )
    return tuple(value if wanted else None for value, wanted in zip(found, mask))  # type: ignore[return-value]


def _parameter_gradients(
    conv: Any,
    terms: _Terms,
    through: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """From the gradients of the one convolution to those of input, weight, bias, gamma and beta."""
    to_input, to_product, to_bias = through
    scale = _scale(terms)
    of_weight = of_bias = of_gamma = of_beta = None
    if needs[1] and to_product is not None:
        of_weight = scale_output(conv, to_product.to(scale.dtype), scale).to(terms.weight.dtype)
    if needs[2] and to_bias is not None and terms.bias is not None:
        of_bias = (scale * to_bias).to(terms.bias.dtype)
    if needs[3] and to_product is not None and to_bias is not None and terms.gamma is not None:
        of_gamma = _gamma_gradient(conv, terms, to_product, to_bias).to(terms.gamma.dtype)
    if needs[4] and to_bias is not None and terms.beta is not None:
        of_beta = to_bias.to(terms.beta.dtype)
    return to_input, of_weight, of_bias, of_gamma, of_beta


def _gamma_gradient(conv: Any, terms: _Terms, to_product: Tensor, to_bias: Tensor) -> Tensor:
    """``(<W_c, dL/d(sW)_c> + (b_c - mean_c) dL/dz_c) / sqrt(variance_c + eps)``."""
    inverse = _inverse_deviation(terms)
    wide = inverse.dtype
    inner = _sum_per_channel(conv, terms.weight.to(wide) * to_product.to(wide))
    offset = -terms.mean.to(wide) if terms.bias is None else terms.bias.to(wide) - terms.mean.to(wide)
    return inverse * (inner + offset * to_bias.to(wide))


def _sum_per_channel(conv: Any, values: Tensor) -> Tensor:
    """Sum a tensor of the weight's shape over everything but the output channels."""
    if not isinstance(conv, _ConvTransposeNd):
        return values.flatten(1).sum(dim=1)
    apart = values.unflatten(0, (conv.groups, -1)).flatten(3)  # (groups, in / g, out / g, kernel)
    return apart.sum(dim=(1, 3)).flatten()


def _padded(conv: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Pad as the layer would wherever the convolution itself cannot, and say what is left to it."""
    if isinstance(conv, nn.Linear):
        return x, ()
    none = (0,) * len(conv.kernel_size)
    if type(conv).forward is Conv2dSame.forward:
        return pad_same(x, conv.kernel_size, conv.stride, conv.dilation), none
    if conv.padding_mode != "zeros":
        return F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), none
    if isinstance(conv.padding, str):
        return F.pad(x, conv._reversed_padding_repeated_twice), none
    return x, conv.padding


def _call(conv: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padded, padding = _padded(conv, x)
    return _convolve(_Call(conv, 0.0, padding), padded, weight, bias)


def _convolve(call: _Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    conv = call.conv
    if isinstance(conv, nn.Linear):
        return F.linear(x, weight, bias)
    transposed = isinstance(conv, _ConvTransposeNd)
    output_padding = conv.output_padding if transposed else (0,) * len(call.padding)
    return torch.convolution(
        x, weight, bias, conv.stride, call.padding, conv.dilation, transposed, output_padding, conv.groups
    )


def _autocast_type(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
