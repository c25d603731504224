"""What one layer carries: its adapters by name, and the hooks through which they act.

The base layer is left untouched: a container is added as its child, and a forward hook reads the container.
Hooks are functions of this module, never closures, so copies, pickles, DDP and ``torch.compile`` see
ordinary modules.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from torchard.tune.adapters.errors import NotMergeableError
from torchard.tune.adapters.sites import CONTAINER
from torchard.tune.fold import NORMS


class SiteAdapter(nn.Module):
    """What a method puts at one layer. Abstract: a method gives ``forward``, and the fold if it has one."""

    mergeable: ClassVar[bool] = False

    def forward(self, output: Any, inputs: tuple[Any, ...]) -> Any:
        """Return the adapted output of the layer."""
        raise NotImplementedError

    def folded_parameter(self, layer: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
        """Return what the layer's ``"weight"`` or ``"bias"`` becomes when this adapter is folded into it.

        Pure and differentiable. ``None`` as a value stands for a parameter that the layer lacks.
        """
        raise NotMergeableError(f"{type(self).__name__} cannot be folded into a {type(layer).__name__}.")

    def folded(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return the layer's new weight and bias; the layer keeps its own."""
        both = {name: self.folded_parameter(layer, name, getattr(layer, name, None)) for name in PARAMETERS}
        return {name: value for name, value in both.items() if value is not None}


PARAMETERS = ("weight", "bias")


class Adapters(nn.ModuleDict):
    """The adapters of one layer by name; ``active`` are those that act, in the order they were attached."""

    def __init__(self) -> None:
        super().__init__()
        self.active: tuple[str, ...] = ()
        self.reached = False


def apply_adapters(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Forward hook: pass the layer's output through its active adapters."""
    return _passed_through(getattr(layer, CONTAINER), output, inputs)


def apply_adapters_before(layer: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Forward pre-hook of the first step after a norm: adapt what the norm hands to its own activation."""
    return (_passed_through(getattr(layer, CONTAINER), inputs[0], ()), *inputs[1:])


def _passed_through(container: Any, output: Any, inputs: tuple[Any, ...]) -> Any:
    if not container.reached:
        container.reached = True
    for name in container.active:
        output = container[name](output, inputs)
    return output


def add_adapter(layer: nn.Module, name: str, adapter: SiteAdapter) -> None:
    """Put ``adapter`` at ``layer`` under ``name``, in place; the first one also brings the hook."""
    if CONTAINER not in layer._modules:
        container = Adapters()
        container.train(layer.training)
        layer.add_module(CONTAINER, container)
        _add_hook(layer, container)
    adapter.train(layer.training)
    container_of(layer)[name] = adapter


def remove_adapter(layer: nn.Module, name: str) -> None:
    """Take the adapter away, in place; the last one takes container and hook along."""
    container = container_of(layer)
    del container[name]
    if len(container) == 0:
        _remove_hook(layer)
        del layer._modules[CONTAINER]


def container_of(layer: nn.Module) -> Adapters:
    """Return the adapters that the layer carries."""
    container = layer._modules[CONTAINER]
    assert isinstance(container, Adapters)
    return container


def adapter_at(layer: nn.Module, name: str) -> SiteAdapter:
    """Return the adapter that the layer carries under ``name``."""
    adapter = container_of(layer)[name]
    assert isinstance(adapter, SiteAdapter)
    return adapter


def inner_step(layer: nn.Module) -> nn.Module | None:
    """Return the first step that a norm with its own activation takes after normalising, if it has one.

    timm's ``BatchNormAct2d`` and its kin return ``act(drop(norm(x)))``: an adapter of the norm belongs before
    ``drop``, and only there can it be folded.
    """
    step = getattr(layer, "drop", None)
    acts = isinstance(layer, NORMS) and isinstance(getattr(layer, "act", None), nn.Module)
    return step if acts and isinstance(step, nn.Module) else None


def remove_function(hooks: dict[int, Any], function: Any) -> None:
    """Delete ``function`` from a module's hook table; works on copies too, where handles would not."""
    for key in [key for key, hook in hooks.items() if hook is function]:
        del hooks[key]


def _add_hook(layer: nn.Module, container: Adapters) -> None:
    step = inner_step(layer)
    if step is None:
        layer.register_forward_hook(apply_adapters)
    else:
        # Into __dict__, so that the container is not registered at two places of the module tree.
        step.__dict__[CONTAINER] = container
        step.register_forward_pre_hook(apply_adapters_before)


def _remove_hook(layer: nn.Module) -> None:
    step = inner_step(layer)
    if step is None:
        remove_function(layer._forward_hooks, apply_adapters)
    else:
        step.__dict__.pop(CONTAINER, None)
        remove_function(step._forward_pre_hooks, apply_adapters_before)
