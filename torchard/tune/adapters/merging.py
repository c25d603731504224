"""Fold adapters into the weights and back: first everything is computed and checked, then all is written."""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from torchard.tune.adapters.errors import NotMergeableError
from torchard.tune.adapters.site_adapter import PARAMETERS, SiteAdapter, adapter_at, container_of, inner_step
from torchard.tune.adapters.sites import CONTAINER
from torchard.tune.adapters.through_weights import is_through_weights, stored_parameter
from torchard.tune.fold import FOLDABLE, channel_axis, channels

Plan = dict[str, dict[str, Tensor]]
Originals = dict[str, dict[str, Tensor | None]]


def plan_merge(model: nn.Module, names: Sequence[str]) -> Plan:
    """Return the new weight and bias of every layer that carries one of ``names``; nothing is changed.

    Raises:
        NotMergeableError: naming the layer and the reason, if any of them cannot be folded exactly.
    """
    owners = _owners(model)
    plan: Plan = {}
    for path, layer in model.named_modules():
        if CONTAINER not in layer._modules:
            continue
        adapters = [adapter_at(layer, name) for name in names if name in container_of(layer)]
        if adapters:
            _refuse_unfoldable(path, layer, adapters, owners)
            plan[path] = _folded(path, layer, adapters)
    return plan


def commit_merge(
    model: nn.Module, plan: Mapping[str, Mapping[str, Tensor]], *, keep: bool
) -> Originals | None:
    """Write the plan into the model, in place; return copies of what stood there, if ``keep``."""
    layers = dict(model.named_modules())
    originals: Originals = {}
    for path, values in plan.items():
        stored = {name: stored_parameter(layers[path], name) for name in values}
        originals[path] = {n: None if t is None else t.detach().clone() for n, t in stored.items()}
        for name, value in values.items():
            _write(layers[path], name, value)
    return originals if keep else None


def restore(model: nn.Module, originals: Mapping[str, Mapping[str, Tensor | None]]) -> None:
    """Put every tensor back as it was, bit for bit; created ones are taken away again."""
    layers = dict(model.named_modules())
    for path, values in originals.items():
        for name, value in values.items():
            if value is None:
                layers[path]._parameters[name] = None
            else:
                _write(layers[path], name, value)


def _folded(path: str, layer: nn.Module, adapters: Sequence[SiteAdapter]) -> dict[str, Tensor]:
    folded: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in PARAMETERS:
            value = stored = stored_parameter(layer, name)
            for adapter in adapters:
                value = adapter.folded_parameter(layer, name, value)
            if value is not None and value is not stored:
                folded[name] = value.to(_dtype(layer)).detach().clone()
    bad = [name for name, value in folded.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise NotMergeableError(f"{path}: the folded {' and '.join(bad)} would hold NaN or infinity.")
    if isinstance(layer, FOLDABLE) and not _has_plain_forward(layer):
        _verify_on_example(path, layer, adapters, folded)
    return folded


def _dtype(layer: nn.Module) -> torch.dtype:
    tensor = stored_parameter(layer, "weight")
    return tensor.dtype if tensor is not None else torch.get_default_dtype()


def _write(layer: nn.Module, name: str, value: Tensor) -> None:
    stored = stored_parameter(layer, name)
    if stored is not None:
        stored.data.copy_(value)
        return
    layer._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)
    for flag in ("elementwise_affine", "affine"):
        if hasattr(layer, flag):
            setattr(layer, flag, True)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """The modules that hold each parameter, by identity: more than one means the weight is tied."""
    owners: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)].append(path)
    return owners


def _refuse_unfoldable(
    path: str, layer: nn.Module, adapters: Sequence[SiteAdapter], owners: Mapping[int, list[str]]
) -> None:
    unmergeable = [type(adapter).__name__ for adapter in adapters if not adapter.mergeable]
    if unmergeable:
        raise NotMergeableError(
            f"{path or 'the model'}: {unmergeable[0]} is not an affine map of the output."
        )
    for name in PARAMETERS:
        if parametrize.is_parametrized(layer, name) and not is_through_weights(layer, name):
            raise NotMergeableError(
                f"{path}.{name} is parametrised; remove that parametrisation first "
                "(`torch.nn.utils.parametrize.remove_parametrizations`)."
            )
        if name in layer.__dict__ or f"{name}_g" in layer._parameters:
            raise NotMergeableError(
                f"{path}.{name} is computed from other tensors (weight norm); remove it first."
            )
        stored = stored_parameter(layer, name)
        if stored is not None and len(owners.get(id(stored), ())) > 1:
            raise NotMergeableError(
                f"{path}.{name} is shared with {', '.join(p for p in owners[id(stored)] if p != path)}, "
                "which folding would change too."
            )
        if stored is not None and not stored.is_floating_point():
            raise NotMergeableError(f"{path}.{name} is quantised ({stored.dtype}) and cannot take a scale.")


_PLAIN: tuple[Any, ...] = (
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    _BatchNorm,
    *_ConvNd.__subclasses__(),
)
_PLAIN_FORWARDS = {kind.forward for kind in (*_PLAIN, *_ConvTransposeNd.__subclasses__())}


def _has_plain_forward(layer: nn.Module) -> bool:
    return type(layer).forward in _PLAIN_FORWARDS


def _verify_on_example(
    path: str, layer: nn.Module, adapters: Sequence[SiteAdapter], folded: Mapping[str, Tensor]
) -> None:
    """A layer with a forward of its own may do more than its type says (weight standardisation): try it."""
    plain = _bare_copy(layer)
    merged = _bare_copy(layer)
    for name, value in folded.items():
        _write(merged, name, value.double())
    inputs = _example(plain)
    with torch.no_grad():
        expected = type(plain).forward(plain, inputs)
        for adapter in adapters:
            expected = adapter(expected, (inputs,))
        actual = type(merged).forward(merged, inputs)
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not error <= 1e-4:
        raise NotMergeableError(
            f"{path}: {type(layer).__name__} does more to its weight than multiply by it (a trial differs by "
            f"{error:.1e}), so a scale cannot be folded into it."
        )


def _bare_copy(layer: nn.Module) -> nn.Module:
    """A float64 copy on the CPU without adapters, parametrisations or an activation of its own."""
    tensors = {name: stored_parameter(layer, name) for name in PARAMETERS}
    container = container_of(layer)
    step = inner_step(layer)
    shell = copy.copy(layer)
    shell._modules = {name: module for name, module in layer._modules.items() if module is not container}
    shell._modules.pop("parametrizations", None)
    if step is not None:
        shell._modules.update(drop=nn.Identity(), act=nn.Identity())
    own = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    shell._parameters = {**layer._parameters, **own}
    shell._forward_hooks = type(layer._forward_hooks)()
    bare = copy.deepcopy(shell).cpu().double().eval()
    return bare.requires_grad_(False)


def _example(layer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_example_shape(layer), generator=generator, dtype=torch.float64)


def _example_shape(layer: nn.Module) -> list[int]:
    if isinstance(layer, nn.Linear):
        return [3, layer.in_features]
    if isinstance(layer, _ConvNd):
        extent = [d * (k - 1) + 3 for k, d in zip(layer.kernel_size, layer.dilation)]
        return [2, layer.in_channels, *extent]
    if channel_axis(layer) == 1:
        spatial = {nn.BatchNorm1d: 1, nn.BatchNorm3d: 3}.get(type(layer), 2)  # type: ignore[arg-type]
        return [2, channels(layer), *[3] * spatial]
    return [3, *getattr(layer, "normalized_shape", [channels(layer)])]
