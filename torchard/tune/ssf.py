"""Tune a frozen network by scaling and shifting its features (SSF)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchard.core.method import Method
from torchard.core.surgery import Patterns
from torchard.tune.adapters.errors import NotMergeableError
from torchard.tune.adapters.install import AlsoTrain, install, refuse_occupied, resolve_also_train
from torchard.tune.adapters.reach import Sample
from torchard.tune.adapters.site_adapter import SiteAdapter
from torchard.tune.adapters.sites import Site, Targets, choose_layers, classifier_names
from torchard.tune.adapters.state import AdapterSpec, register
from torchard.tune.fold import FOLDABLE, channel_axis, channels, fold_affine, fold_parameter, takes_shift
from torchard.tune.interface import (
    activate,
    detach,
    disabled,
    load,
    merge,
    parameter_groups,
    save,
    summary,
    trainable_parameters,
    unmerge,
)
from torchard.tune.pairs import find_pairs

METHOD = Method(
    shapes=("transform",),
    source="Lian et al., NeurIPS 2022, arXiv 2210.08823",
    claim="Above full fine-tuning on FGVC (90.72 against 88.54 %) with about 0.3 % of its parameters.",
)

__all__ = [
    "SSFConfig",
    "ScaleShift",
    "activate",
    "attach",
    "detach",
    "disabled",
    "fold_affine",
    "load",
    "merge",
    "parameter_groups",
    "save",
    "summary",
    "trainable_parameters",
    "unmerge",
]

Layout = Literal["all", "official"]
Init = Literal["normal", "identity"]


def attach(
    model: nn.Module,
    *,
    targets: Targets = None,
    exclude: Patterns = (),
    layout: Layout = "all",
    init: Init = "normal",
    init_std: float = 0.02,
    skip_before_batchnorm: bool = True,
    name: str = "default",
    also_train: AlsoTrain = "classifier",
    sample: Sample | None = None,
    freeze_base: bool = True,
) -> nn.Module:
    """Put a trainable scale and shift after every linear, convolution and normalisation layer, in place.

    Lian et al. 2022, sec. 3.2: ``y = scale * x + shift``, one pair of numbers per output channel, drawn from
    N(1, 0.02²) and N(0, 0.02²). ``init="identity"`` starts at the un-tuned output instead. Everything else
    is frozen but ``also_train``; batch norms should stay in eval mode while training
    (:class:`~torchard.tune.statistics.HeldStatistics`). While training one more tensor per site is kept for
    the backward pass; after :func:`merge` nothing is left to compute.

    ``skip_before_batchnorm`` leaves out convolutions that feed a batch norm, whose own pair already says all
    (ours; half the numbers on such networks). ``layout="official"`` follows the authors' code on ViT, Swin
    and ConvNeXt, which by accident leaves out the downsampling layers. ``sample`` is run once to see that
    every layer is reached; without it the first training step warns instead.

    Example:
        >>> model = ssf.attach(timm.create_model("vit_base_patch16_224", num_classes=100), sample=images)
        >>> optimizer = torch.optim.AdamW(ssf.parameter_groups(model, lr=5e-3, weight_decay=0.05))

    Raises:
        ValueError: if no layer is left, a targeted layer cannot be scaled, the name is taken, or no
            classifier with parameters is found (``also_train=None`` to train none).
        UnreachableSiteError: if ``sample`` shows that a layer is never run.
    """
    config = SSFConfig(layout, init, init_std, skip_before_batchnorm)
    refuse_occupied(model, name)
    beside = resolve_also_train(model, also_train)
    if layout == "official":
        beside = (*beside, *(key for key in _official_extra(model) if also_train is not None))
    sites = _sites(model, config, targets, exclude, beside, sample)
    _warn_of_moving_statistics(model)
    return install(
        model, _SPEC, config, sites, name=name, also_train=beside, freeze_base=freeze_base, sample=sample
    )


class ScaleShift(SiteAdapter):
    """``scale * x + shift`` along one axis; parameters in float32 where the data are half precision."""

    mergeable: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        axis: int,
        init: Init = "normal",
        *,
        init_std: float = 0.02,
        shift: bool = True,
        path: str = "",
    ) -> None:
        super().__init__()
        self.axis = axis
        self.path = path
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift: nn.Parameter | None
        self.register_parameter("shift", nn.Parameter(torch.zeros(channels)) if shift else None)
        if init == "normal":
            for parameter in self.parameters():
                parameter.data += init_std * torch.randn(channels, device=parameter.device)

    def forward(self, output: Float[Tensor, "..."], inputs: tuple[Tensor, ...] = ()) -> Float[Tensor, "..."]:
        """Return the scaled and shifted output.

        Raises:
            ValueError: if the axis does not have the expected number of channels.
        """
        if output.shape[self.axis] != len(self.scale):
            raise ValueError(
                f"scale and shift at {self.path or 'this layer'} expect {len(self.scale)} channels on axis "
                f"{self.axis}, but saw an output of shape {tuple(output.shape)}."
            )
        shape = [1] * output.ndim
        shape[self.axis] = -1
        scale = self.scale.view(shape)
        if self.shift is None:
            return (output * scale).to(output.dtype)
        return torch.addcmul(self.shift.view(shape), output, scale).to(output.dtype)

    def folded_parameter(self, layer: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
        """Return the layer's weight or bias with scale and shift folded in."""
        if not isinstance(layer, FOLDABLE):
            raise NotMergeableError(
                f"{self.path}: a {type(layer).__name__} has no weight that could take the scale and shift."
            )
        if name == "bias" and not takes_shift(layer):
            return value
        return fold_parameter(layer, name, value, self.scale, self.shift)


@dataclass(frozen=True)
class SSFConfig:
    """The settings of :func:`attach` that are stored with the adapter."""

    layout: str = "all"
    init: str = "normal"
    init_std: float = 0.02
    skip_before_batchnorm: bool = True

    def __post_init__(self) -> None:
        for field, words in (("layout", get_args(Layout)), ("init", get_args(Init))):
            if getattr(self, field) not in words:
                raise ValueError(f"`{field}={getattr(self, field)!r}` must be one of {', '.join(words)}.")
        if not self.init_std >= 0:
            raise ValueError(f"`init_std={self.init_std}` must not be negative.")


def _build(layer: nn.Module, site: Site, config: SSFConfig, _shared: nn.Module | None) -> ScaleShift:
    foldable = isinstance(layer, FOLDABLE)
    return ScaleShift(
        site.width,
        channel_axis(layer) if foldable else 1,
        config.init,  # type: ignore[arg-type]
        init_std=config.init_std,
        shift=takes_shift(layer) or not foldable,
        path=site.path,
    )


_SPEC = register(AdapterSpec("ssf", 1, SSFConfig, _build))


def _sites(
    model: nn.Module,
    config: SSFConfig,
    targets: Targets,
    exclude: Patterns,
    beside: Sequence[str],
    sample: Sample | None,
) -> dict[str, Site]:
    left_out = [key.rpartition(".")[0] for key in beside]
    if targets is None and not left_out:
        left_out += _classifier_if_any(model)
    if targets is None and config.skip_before_batchnorm and _has_batch_norm(model):
        left_out += [pair.conv for pair in find_pairs(model, sample)]
    if config.layout == "official":
        left_out += _official_gaps(model)
    layers = choose_layers(model, targets, exclude, supported=FOLDABLE, left_out=left_out)
    sites = {path: Site(path, type(layer).__name__, channels(layer)) for path, layer in layers.items()}
    if config.layout == "official" and _family(model) == "ConvNeXt":
        # Their last pair of vectors follows the last stage, before pooling: timm's `norm_pre` slot.
        width = channels(model.get_submodule("head.norm"))
        sites["norm_pre"] = Site("norm_pre", type(model.get_submodule("norm_pre")).__name__, width)
    return sites


def _classifier_if_any(model: nn.Module) -> list[str]:
    try:
        return list(classifier_names(model))
    except ValueError:
        return []


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _family(model: nn.Module) -> str:
    """The architectures whose placement the authors' code defines.

    Raises:
        ValueError: for any other.
    """
    families = {"VisionTransformer": "ViT", "SwinTransformer": "Swin", "ConvNeXt": "ConvNeXt"}
    family = families.get(type(model).__name__)
    if family is None:
        raise ValueError(
            f"`layout='official'` is defined for {', '.join(families)}, not for {type(model).__name__}. "
            "Use `layout='all'`."
        )
    return family


def _official_gaps(model: nn.Module) -> list[str]:
    """Layers the authors' code passes over: downsampling, ConvNeXt's head norm and convolutional MLPs."""
    family = _family(model)
    modules = dict(model.named_modules())
    gaps = [path for path in modules if path.endswith(".downsample")] if family != "ViT" else []
    if family == "ConvNeXt":
        gaps += ["head.norm"]
        gaps += [
            path for path, module in modules.items() if ".mlp." in path and isinstance(module, nn.Conv2d)
        ]
    return gaps


def _official_extra(model: nn.Module) -> tuple[str, ...]:
    """Their freeze rule goes by the substring ``head.``, which leaves ConvNeXt's head norm trainable."""
    if _family(model) != "ConvNeXt":
        return ()
    return tuple(key for key, _ in model.named_parameters() if key.startswith("head.norm."))


def _warn_of_moving_statistics(model: nn.Module) -> None:
    moving = [
        path
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    if moving:
        warnings.warn(
            f"{len(moving)} batch norms of {type(model).__name__} are in train mode; their statistics would "
            "move and undo the scales before them. Keep them in eval mode while training "
            "(`torchard.tune.statistics.hold_statistics_`).",
            stacklevel=3,
        )
