"""See whether every adapter is on the way of the data, and reroute those whose layer is never called."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchard.core.surgery import flags_kept
from torchard.tune.adapters.errors import UnreachableSiteError
from torchard.tune.adapters.site_adapter import adapter_at, container_of, remove_function
from torchard.tune.adapters.sites import CONTAINER
from torchard.tune.adapters.through_weights import adapt_through_weights, is_through_weights, readings

Sample = Tensor | tuple[Any, ...] | Mapping[str, Any]


def ensure_reach(model: nn.Module, paths: Iterable[str], name: str, sample: Sample) -> None:
    """Run ``sample`` once; give layers that were not called their adapter through their weights, in place.

    Raises:
        UnreachableSiteError: naming the layers whose adapter neither way can act.
    """
    layers = {path: model.get_submodule(path) for path in paths if path}
    run_sample(model, layers.values(), sample)
    silent = {path: layer for path, layer in layers.items() if not was_reached(layer)}
    if not silent:
        return
    helpless = [path for path, layer in silent.items() if not _acts_through_weights(layer, name)]
    if helpless:
        _refuse(
            model,
            helpless,
            f"and the bias added is not {_its(helpless)} own, or the adapter is no affine map",
        )
    for layer in silent.values():
        if not is_through_weights(layer):
            adapt_through_weights(layer)
    run_sample(model, silent.values(), sample)
    unread = [path for path, layer in silent.items() if not was_reached(layer)]
    if unread:
        _refuse(model, unread, f"and nobody reads {_its(unread)} weight, or {_its(unread)} bias")


def run_sample(model: nn.Module, layers: Iterable[nn.Module], sample: Sample) -> None:
    """Forget which adapters were reached and run the model once, in eval mode and without gradients."""
    for layer in layers:
        container_of(layer).reached = False
        for reading in readings(layer).values():
            reading.reached = False
    with flags_kept(model), torch.no_grad():
        model.eval()
        if isinstance(sample, Mapping):
            model(**sample)
        else:
            model(*(sample if isinstance(sample, tuple) else (sample,)))


def was_reached(layer: nn.Module) -> bool:
    """Whether the layer was called since last asked, or else whether all its adapted tensors were read."""
    parts = readings(layer)
    return container_of(layer).reached or (bool(parts) and all(part.reached for part in parts.values()))


def warn_if_unreached(model: nn.Module, _inputs: Any, _output: Any) -> None:
    """Forward hook of the root: after the first training forward, name the adapters that did not act."""
    if not model.training or torch.compiler.is_compiling():
        return
    remove_function(model._forward_hooks, warn_if_unreached)
    silent = [
        path
        for path, layer in model.named_modules()
        if path and CONTAINER in layer._modules and container_of(layer).active and not was_reached(layer)
    ]
    if silent:
        warnings.warn(
            f"{_shown(silent)} {'was' if len(silent) == 1 else 'were'} not run by {type(model).__name__}, so "
            "adapters there neither act nor learn. Attach with `sample=` to reroute them, or with "
            f"`exclude={_pattern(silent)!r}`.",
            stacklevel=2,
        )


def _acts_through_weights(layer: nn.Module, name: str) -> bool:
    adapter = adapter_at(layer, name)
    if not adapter.mergeable or getattr(layer, "weight", None) is None:
        return False
    has_bias = getattr(layer, "bias", None) is not None
    # A bias that the adapter would have to create is one that nobody reads (BEiT's q_bias, v_bias).
    return has_bias or adapter.folded_parameter(layer, "bias", None) is None


def _refuse(model: nn.Module, paths: list[str], reason: str) -> None:
    raise UnreachableSiteError(
        f"{type(model).__name__} never calls {_shown(paths)}, {reason}. "
        f"Leave them out: `exclude={_pattern(paths)!r}`."
    )


def _its(paths: list[str]) -> str:
    return "its" if len(paths) == 1 else "their"


def _pattern(paths: list[str]) -> list[str]:
    """The globs that name these layers: ``blocks.0.attn.qkv`` and its kin become ``*.attn.qkv``."""
    ends = {".".join(path.split(".")[-2:]) for path in paths}
    return sorted(f"*.{end}" if f"{end}" not in paths else end for end in ends)


def _shown(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
