"""Reach layers that are never called: their adapter acts on the weight whenever somebody reads it.

Some networks compute ``linear(x, self.qkv.weight)`` without calling ``self.qkv`` (BEiT, EVA, SwinV2,
``nn.MultiheadAttention``), so no hook of the layer fires. ``torch.nn.utils.parametrize`` sees the reading.
The layer's ``state_dict`` keeps its plain keys; ``torch.save`` of the whole module is refused by torch for
parametrised layers, ``copy.deepcopy`` and state dicts work.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchard.tune.adapters.site_adapter import PARAMETERS, adapter_at, container_of


class FoldedWhenRead(nn.Module):
    """A parametrisation: gives the layer's weight or bias with the active adapters folded into it."""

    def __init__(self, layer: nn.Module, parameter: str) -> None:
        super().__init__()
        # In a tuple, because a module attribute would be registered, and make the layer its own child.
        self.owner = (layer, container_of(layer))
        self.parameter = parameter
        self.reached = False

    def forward(self, value: Tensor) -> Tensor:
        """Return ``value`` with every active adapter folded in, one after another."""
        if not self.reached:
            self.reached = True
        layer, adapters = self.owner
        folded: Tensor | None = value
        for name in adapters.active:
            folded = adapter_at(layer, name).folded_parameter(layer, self.parameter, folded)
        return value if folded is None else folded


def adapt_through_weights(layer: nn.Module) -> None:
    """Let the layer's adapters act on its weight and bias as they are read, in place."""
    for name in PARAMETERS:
        if getattr(layer, name, None) is not None:
            # unsafe: the identity of shape and dtype is ours to keep, and the check would run the adapters.
            parametrize.register_parametrization(layer, name, FoldedWhenRead(layer, name), unsafe=True)
    layer.register_state_dict_post_hook(_plain_keys)
    layer.register_load_state_dict_pre_hook(_parametrised_keys)


def stop_through_weights(layer: nn.Module) -> None:
    """Undo :func:`adapt_through_weights`: the original parameters are back, the same objects, untouched."""
    for name in PARAMETERS:
        if is_through_weights(layer, name):
            original = _parametrisations(layer, name).original
            parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
            layer._parameters[name] = original
    _forget(layer._state_dict_hooks, _plain_keys)
    _forget(layer._load_state_dict_pre_hooks, _parametrised_keys)


def is_through_weights(layer: nn.Module, name: str = "weight") -> bool:
    """Whether this parameter of the layer is adapted as it is read."""
    if not parametrize.is_parametrized(layer, name):
        return False
    return any(isinstance(part, FoldedWhenRead) for part in _parametrisations(layer, name))


def readings(layer: nn.Module) -> dict[str, FoldedWhenRead]:
    """Return the parametrisations of the layer by parameter, to see which were read."""
    return {
        name: next(part for part in _parametrisations(layer, name) if isinstance(part, FoldedWhenRead))
        for name in PARAMETERS
        if is_through_weights(layer, name)
    }


def stored_parameter(layer: nn.Module, name: str) -> Tensor | None:
    """Return the parameter or buffer as it is stored, without what adapters make of it when read."""
    if is_through_weights(layer, name):
        return _parametrisations(layer, name).original
    return layer._parameters.get(name, layer._buffers.get(name))


def _parametrisations(layer: nn.Module, name: str) -> Any:
    parts: Any = layer.parametrizations
    return parts[name]


def _forget(hooks: dict[int, Any], function: Any) -> None:
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is function]:
        del hooks[key]


def _plain_keys(layer: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in PARAMETERS:
        long = f"{prefix}parametrizations.{name}.original"
        if long in state:
            state[prefix + name] = state.pop(long)


def _parametrised_keys(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in PARAMETERS:
        if prefix + name in state:
            state[f"{prefix}parametrizations.{name}.original"] = state.pop(prefix + name)
