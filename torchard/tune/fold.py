"""Scale and shift the output channels of a layer by changing its own weight and bias.

Everything here acts on the output side, so padding, stride, groups and dilation never matter:
``scale * layer(x) + shift`` is the layer with other numbers in it.
"""

from jaxtyping import Float
from timm.layers import norm as timm_norm
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import FrozenBatchNorm2d

NORMS_WITHOUT_BIAS: tuple[type[nn.Module], ...] = (
    nn.RMSNorm,
    timm_norm.RmsNorm,
    timm_norm.RmsNormFp32,
    timm_norm.RmsNorm2d,
    timm_norm.RmsNorm2dFp32,
    timm_norm.SimpleNorm,
    timm_norm.SimpleNormFp32,
    timm_norm.SimpleNorm2d,
    timm_norm.SimpleNorm2dFp32,
)
NORMS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.GroupNorm,
    _BatchNorm,
    FrozenBatchNorm2d,
    FrozenBatchNormAct2d,
    *NORMS_WITHOUT_BIAS,
)
FOLDABLE: tuple[type[nn.Module], ...] = (nn.Linear, _ConvNd, *NORMS)


def fold_affine(
    layer: nn.Module, scale: Float[Tensor, " c"], shift: Float[Tensor, " c"] | None
) -> dict[str, Float[Tensor, "..."]]:
    """Return the weight and bias with which ``layer(x)`` becomes ``scale * layer(x) + shift``.

    A bias, or a norm's weight, that the layer lacks is created. The layer itself is left as it was.

    Raises:
        ValueError: if the layer is of another kind, has another number of channels, or cannot take a shift.
    """
    width = channels(layer)
    if len(scale) != width or (shift is not None and len(shift) != width):
        raise ValueError(
            f"`scale` has {len(scale)} entries, but {type(layer).__name__} has {width} output channels."
        )
    names = ("weight", "bias") if takes_shift(layer) else ("weight",)
    if shift is not None and "bias" not in names and bool(shift.any()):
        raise ValueError(
            f"{type(layer).__name__} has no bias that could take a shift other than zero. "
            "Use a scale alone after this layer."
        )
    folded = {name: fold_parameter(layer, name, getattr(layer, name, None), scale, shift) for name in names}
    return {name: value for name, value in folded.items() if value is not None}


def fold_parameter(
    layer: nn.Module,
    name: str,
    value: Float[Tensor, "..."] | None,
    scale: Float[Tensor, " c"],
    shift: Float[Tensor, " c"] | None,
) -> Float[Tensor, "..."] | None:
    """Return what ``value``, the layer's ``"weight"`` or ``"bias"``, becomes; differentiable in all tensors.

    ``None`` stands for a parameter the layer does not have: it comes back created, or ``None`` if not needed.
    """
    if name == "bias":
        if value is None:
            return shift
        scaled = scale * value
        return (scaled if shift is None else scaled + shift).to(value.dtype)
    if value is None:
        return scale
    return scale_output(layer, value, scale).to(value.dtype)


def scale_output(
    layer: nn.Module, weight: Float[Tensor, "..."], scale: Float[Tensor, " c"]
) -> Float[Tensor, "..."]:
    """Return ``weight`` with each output channel multiplied by its entry of ``scale``."""
    if isinstance(layer, NORMS):
        return scale * weight
    if not isinstance(layer, _ConvTransposeNd):
        return scale.reshape(-1, *[1] * (weight.ndim - 1)) * weight
    # A transposed weight is (in, out / groups, ...): its output channels lie on two axes.
    apart = weight.unflatten(0, (layer.groups, -1))
    factor = scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
    return (apart * factor).flatten(0, 1)


def channels(layer: nn.Module) -> int:
    """Return the number of output channels of a layer.

    Raises:
        ValueError: if the layer is of a kind whose channels are not known.
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, _ConvNd):
        return layer.out_channels
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, _BatchNorm):
        return layer.num_features
    if isinstance(layer, FrozenBatchNorm2d | FrozenBatchNormAct2d):
        return int(layer.running_var.numel())  # type: ignore[operator]
    if isinstance(layer, NORMS):
        return int(layer.normalized_shape[-1])  # type: ignore[index]
    raise ValueError(f"{type(layer).__name__} is no linear, convolution or normalisation layer.")


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of the output that holds the channels, from the layer's type and never from sizes."""
    if isinstance(layer, nn.Linear):
        return -1
    if isinstance(layer, (nn.LayerNorm, *NORMS_WITHOUT_BIAS)):
        # timm's and torchvision's LayerNorm2d and RmsNorm2d normalise axis 1 of (n, c, h, w).
        return 1 if "2d" in type(layer).__name__ else -1
    return 1


def takes_shift(layer: nn.Module) -> bool:
    """Whether the layer has, or could be given, a bias."""
    return isinstance(layer, FOLDABLE) and not isinstance(layer, NORMS_WITHOUT_BIAS)
