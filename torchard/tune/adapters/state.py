"""What a tuned model remembers about its adapters: an ordinary attribute of the model's root module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from torchard.tune.adapters.errors import NothingToSaveError
from torchard.tune.adapters.site_adapter import Adapters, SiteAdapter, container_of
from torchard.tune.adapters.sites import CONTAINER, Site

ATTRIBUTE = "torchard_tuning"


@dataclass(frozen=True)
class AdapterSpec:
    """What a method contributes: how its adapters are rebuilt from a settings dataclass.

    ``build(layer, site, config, shared)`` returns the adapter of one layer. ``build_shared(model, config)``,
    if given, returns the one module that all sites refer to; it lives at the root of the model.
    """

    slug: str
    version: int
    config: type
    build: Callable[[nn.Module, Site, Any, nn.Module | None], SiteAdapter]
    build_shared: Callable[[nn.Module, Any], SiteAdapter] | None = None


@dataclass
class Attachment:
    """One named set of adapters."""

    method: str
    version: int
    config: Any
    sites: dict[str, Site]
    also_train: tuple[str, ...]
    fingerprint: str
    trainable: bool = True
    head: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Merged:
    """Which names are folded into the weights, and what stood there before (``None``: nothing)."""

    names: tuple[str, ...]
    originals: dict[str, dict[str, Tensor | None]] | None


@dataclass
class Tuning:
    """Everything known about a tuned model, beside the adapters themselves.

    ``head_owner`` is the name whose classifier values stand in the model now; the others are parked in their
    attachment, the base model's in ``base_head``.
    """

    flags: dict[str, bool]
    frozen: bool = True
    attachments: dict[str, Attachment] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    merged: Merged | None = None
    base_head: dict[str, Tensor] = field(default_factory=dict)
    head_owner: str | None = None


_SPECS: dict[str, AdapterSpec] = {}


def register(spec: AdapterSpec) -> AdapterSpec:
    """Make a method known, so that its stored adapters can be loaded."""
    _SPECS[spec.slug] = spec
    return spec


def specs() -> Mapping[str, AdapterSpec]:
    """Return the registered methods by slug."""
    return _SPECS


def tuning_of(model: nn.Module) -> Tuning | None:
    """Return what the model remembers, or ``None`` if nothing is attached."""
    return model.__dict__.get(ATTRIBUTE)


def require_tuning(model: nn.Module) -> Tuning:
    """Return what the model remembers.

    Raises:
        NothingToSaveError: if nothing is attached.
    """
    tuning = tuning_of(model)
    if tuning is None:
        raise NothingToSaveError(
            f"no adapter is attached to this {type(model).__name__}. Attach one first, to the same module "
            "that is handed in here (under DDP: `model.module`)."
        )
    return tuning


def require_name(model: nn.Module, name: str | None) -> str:
    """Return ``name``, or the only attached name.

    Raises:
        ValueError: if it is unknown, or left out where there are several.
    """
    names = list(require_tuning(model).attachments)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        raise ValueError(f"`name={name!r}` is not one of the attached adapters: {', '.join(names)}.")
    return name


def names_of(model: nn.Module, names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the given names in the order they were attached; ``None`` stands for the active ones.

    Raises:
        ValueError: if one of them is not attached.
    """
    tuning = require_tuning(model)
    if names is None:
        return tuning.active
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in tuning.attachments]
    if unknown:
        raise ValueError(f"{unknown} not attached. Attached: {', '.join(tuning.attachments)}.")
    return tuple(name for name in tuning.attachments if name in wanted)


def containers(model: nn.Module) -> dict[str, Adapters]:
    """Return the adapters of every layer that has some, by the layer's path (``""`` is the root)."""
    return {path: container_of(layer) for path, layer in model.named_modules() if CONTAINER in layer._modules}


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return the parameters of one named set, by ``<site>.<parameter>`` (root: ``shared.<parameter>``)."""
    return {
        f"{path or 'shared'}.{key}": parameter
        for path, container in containers(model).items()
        if name in container
        for key, parameter in container[name].named_parameters()
    }


def synchronise(model: nn.Module) -> None:
    """Let containers, classifier values and gradient flags follow what :class:`Tuning` says."""
    tuning = require_tuning(model)
    logical = tuple(name for name in tuning.active if name not in tuning.disabled)
    folded = tuning.merged.names if tuning.merged else ()
    for container in containers(model).values():
        container.active = tuple(name for name in logical if name in container and name not in folded)
    owners = [name for name in logical if tuning.attachments[name].also_train]
    _put_head(model, tuning, owners[-1] if owners else None)
    _set_flags(model, tuning)


def head_tensors(model: nn.Module, also_train: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters trained beside the adapters, and the running statistics of their modules."""
    parameters = dict(model.named_parameters())
    modules = {name.rpartition(".")[0] for name in also_train}
    buffers = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[0] in modules and CONTAINER not in name.split(".")
    }
    return {**{name: parameters[name] for name in also_train}, **buffers}


def _put_head(model: nn.Module, tuning: Tuning, owner: str | None) -> None:
    """Exchange classifier values, in place, so that optimisers keep their parameters."""
    if owner == tuning.head_owner:
        return
    if tuning.head_owner is not None:
        attachment = tuning.attachments[tuning.head_owner]
        attachment.head = _copies(head_tensors(model, attachment.also_train))
    _copy_into(model, tuning.base_head)
    if owner is not None:
        _copy_into(model, tuning.attachments[owner].head)
    tuning.head_owner = owner


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _copy_into(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    here = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in values.items():
        here[name].data.copy_(value)


def _set_flags(model: nn.Module, tuning: Tuning) -> None:
    """Only what is active and meant to be trained wants gradients, so that DDP finds no idle parameter."""
    training = [name for name in tuning.active if tuning.attachments[name].trainable]
    for name in tuning.attachments:
        for parameter in adapter_parameters(model, name).values():
            parameter.requires_grad_(name in training)
    parameters = dict(model.named_parameters())
    wanted = {key for name in training for key in tuning.attachments[name].also_train}
    for key in {key for attachment in tuning.attachments.values() for key in attachment.also_train}:
        parameters[key].requires_grad_(key in wanted or (not tuning.frozen and tuning.flags[key]))
