"""Put a named set of adapters into a model, and take it out again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchard.tune.adapters.files import fingerprint
from torchard.tune.adapters.reach import Sample, ensure_reach, warn_if_unreached
from torchard.tune.adapters.site_adapter import SiteAdapter, add_adapter, remove_adapter, remove_function
from torchard.tune.adapters.sites import Site, classifier_names, parameters_under
from torchard.tune.adapters.state import (
    ATTRIBUTE,
    AdapterSpec,
    Attachment,
    Tuning,
    containers,
    head_tensors,
    require_tuning,
    synchronise,
    tuning_of,
)
from torchard.tune.adapters.through_weights import is_through_weights, stop_through_weights

AlsoTrain = str | Sequence[str] | None


def refuse_occupied(model: nn.Module, name: str) -> None:
    """Raise unless a set called ``name`` can be attached now.

    Raises:
        ValueError: if the name is taken or cannot be a module name, or adapters are merged.
    """
    if not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ValueError(f"`name={name!r}` cannot name a module; use letters, digits and underscores.")
    tuning = tuning_of(model)
    if tuning is None:
        return
    if name in tuning.attachments:
        raise ValueError(f"`name={name!r}` is attached already; detach it first or choose another name.")
    if tuning.merged is not None:
        raise ValueError("adapters are merged into this model; `unmerge` or `detach` before attaching more.")


def resolve_also_train(model: nn.Module, also_train: AlsoTrain) -> tuple[str, ...]:
    """Return the names of the parameters trained beside the adapters; ``"classifier"`` finds them itself.

    Raises:
        ValueError: if there is no classifier with parameters, or a name matches nothing.
    """
    if also_train is None:
        return ()
    patterns = classifier_names(model) if also_train == "classifier" else also_train
    return parameters_under(model, [patterns] if isinstance(patterns, str) else patterns)


def install(
    model: nn.Module,
    spec: AdapterSpec,
    config: Any,
    sites: Mapping[str, Site],
    *,
    name: str,
    also_train: tuple[str, ...],
    freeze_base: bool = True,
    sample: Sample | None = None,
    trainable: bool = True,
    check_reach: bool = True,
) -> nn.Module:
    """Build the adapters of ``sites`` into ``model``, in place, make them the active ones, and return it.

    Raises:
        UnreachableSiteError: if ``sample`` shows that a layer is never run; the model is as it was.
    """
    refuse_occupied(model, name)
    adapters = _built(model, spec, config, sites)  # may refuse: nothing is changed before
    tuning = tuning_of(model) or _new_tuning(model, frozen=freeze_base)
    attachment = Attachment(
        spec.slug, spec.version, config, dict(sites), also_train, fingerprint(model, sites), trainable
    )
    if freeze_base:
        _freeze_base(model)
    for path, adapter in adapters.items():
        add_adapter(model.get_submodule(path), name, adapter)
    _remember_head(model, tuning, attachment)
    tuning.attachments[name] = attachment
    tuning.active = (name,)
    try:
        synchronise(model)
        if sample is not None:
            ensure_reach(model, sites, name, sample)
    except Exception:
        uninstall(model, name)
        raise
    if sample is None and check_reach:
        remove_function(model._forward_hooks, warn_if_unreached)
        model.register_forward_hook(warn_if_unreached)
    return model


def uninstall(model: nn.Module, name: str) -> None:
    """Take a named set out, in place; with the last one every hook goes and every gradient flag returns.

    Classifier values stay as they are in the model when the last set goes: they were trained for it.
    """
    tuning = require_tuning(model)
    if len(tuning.attachments) > 1:
        tuning.active = tuple(other for other in tuning.active if other != name)
        synchronise(model)
    for path, container in containers(model).items():
        if name in container:
            layer = model.get_submodule(path)
            if len(container) == 1 and is_through_weights(layer):
                stop_through_weights(layer)
            remove_adapter(layer, name)
    del tuning.attachments[name]
    if not tuning.attachments:
        _forget(model, tuning)


def _new_tuning(model: nn.Module, *, frozen: bool) -> Tuning:
    tuning = Tuning({key: p.requires_grad for key, p in model.named_parameters()}, frozen)
    setattr(model, ATTRIBUTE, tuning)
    return tuning


def _freeze_base(model: nn.Module) -> None:
    """Everything, adapters included: :func:`synchronise` wakes those that are meant to learn."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _built(
    model: nn.Module, spec: AdapterSpec, config: Any, sites: Mapping[str, Site]
) -> dict[str, SiteAdapter]:
    """The adapters by the path of their layer; the model does not carry them yet."""
    adapters: dict[str, SiteAdapter] = {}
    shared = spec.build_shared(model, config) if spec.build_shared else None
    if shared is not None:
        _match(shared, model)
        adapters[""] = shared
    for path, site in sites.items():
        layer = model.get_submodule(path)
        adapters[path] = spec.build(layer, site, config, shared)
        _match(adapters[path], layer if any(True for _ in layer.parameters()) else model)
    return adapters


def _match(adapter: SiteAdapter, layer: nn.Module) -> None:
    """Move an adapter to its layer's device; float32 where the layer is half precision, else its type."""
    tensor = next((t for t in layer.parameters() if t.is_floating_point()), None)
    if tensor is None:
        return
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    adapter.to(device=tensor.device, dtype=torch.float32 if half else tensor.dtype)


def _remember_head(model: nn.Module, tuning: Tuning, attachment: Attachment) -> None:
    live = {key: value.detach().clone() for key, value in head_tensors(model, attachment.also_train).items()}
    for key, value in live.items():
        tuning.base_head.setdefault(key, value)
    attachment.head = {key: tuning.base_head[key] for key in live}


def _forget(model: nn.Module, tuning: Tuning) -> None:
    remove_function(model._forward_hooks, warn_if_unreached)
    delattr(model, ATTRIBUTE)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.flags.get(key, True))
