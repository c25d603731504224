"""Choose the layers that get an adapter."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from torchard.core.surgery import Pattern, Patterns, classifier_name, find

Targets = Patterns | Callable[[str, nn.Module], bool] | None

CONTAINER = "torchard_adapters"


@dataclass(frozen=True)
class Site:
    """Where an adapter sits: the layer's dotted path, its class name and its number of output channels."""

    path: str
    kind: str
    width: int


def choose_layers(
    model: nn.Module,
    targets: Targets,
    exclude: Patterns,
    *,
    supported: tuple[type[nn.Module], ...],
    left_out: Sequence[str] = (),
) -> dict[str, nn.Module]:
    """Return the layers to adapt, by path, in the model's order.

    ``targets`` is a callable of (path, module), or patterns as in :func:`torchard.core.surgery.find` (a block
    stands for the layers in it), or ``None`` for every supported layer. Modules under
    the paths of ``left_out`` are never chosen.

    Raises:
        ValueError: if nothing is chosen, or a pattern matches only layers of unsupported types.
    """
    layers = {path: layer for path, layer in _own_modules(model).items() if isinstance(layer, supported)}
    chosen = _matching(model, layers, targets, supported)
    excluded = _excluded(model, exclude)
    chosen = {
        path: layer
        for path, layer in chosen.items()
        if path not in excluded and not any(is_under(path, parent) for parent in left_out)
    }
    if not chosen:
        raise ValueError(
            f"`targets={targets!r}` with `exclude={exclude!r}` leaves no layer of {type(model).__name__} to "
            "adapt. Leave `targets` out to use every linear, convolution and normalisation layer."
        )
    return chosen


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the classifier layers; several only where timm declares several.

    Raises:
        ValueError: if there is none that holds parameters.
    """
    declared = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (declared,) if isinstance(declared, str) else tuple(declared)
    present = tuple(name for name in names if name in dict(model.named_modules()))
    names = present or (classifier_name(model),)
    if not any(True for name in names for _ in model.get_submodule(name).parameters()):
        raise ValueError(
            f"the classifier {', '.join(names)} of {type(model).__name__} has no parameters to train. "
            "Give the model its classes first (`model.reset_classifier(n)`), or pass `also_train=None`."
        )
    return names


def parameters_under(model: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of parameters that are, or lie under, any of the named modules or globs.

    Raises:
        ValueError: if one of the patterns matches no parameter.
    """
    parameters = dict(_own_parameters(model))
    found: list[str] = []
    for pattern in patterns:
        names = [name for name in parameters if name == pattern]
        if not names:
            modules = find(model, pattern)
            names = [name for name in parameters if any(is_under(name, path) for path in modules)]
        if not names:
            raise ValueError(f"`also_train` names {pattern!r}, which holds no parameters.")
        found += [name for name in names if name not in found]
    return tuple(found)


def is_under(path: str, parent: str) -> bool:
    """Whether ``path`` is ``parent`` or lies below it."""
    return path == parent or path.startswith(parent + ".")


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The user's modules, without what was attached."""
    return {path: module for path, module in model.named_modules() if CONTAINER not in path.split(".")}


def _own_parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if CONTAINER not in name.split("."))


def _matching(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    targets: Targets,
    supported: tuple[type[nn.Module], ...],
) -> dict[str, nn.Module]:
    if targets is None:
        return dict(layers)
    if callable(targets) and not isinstance(targets, type):
        return {path: layer for path, layer in layers.items() if targets(path, layer)}
    patterns = _as_patterns(targets)
    found: set[str] = set()
    for pattern in patterns:
        matches = find(model, pattern)
        below = {path for path in layers if any(is_under(path, match) for match in matches)}
        if not below:
            kinds = sorted({type(module).__name__ for module in matches.values()})
            known = ", ".join(kind.__name__.lstrip("_") for kind in supported)
            raise ValueError(
                f"`targets` {pattern!r} matches only modules of type {', '.join(kinds)}, which cannot be "
                f"adapted. Supported: {known}."
            )
        found |= below
    return {path: layer for path, layer in layers.items() if path in found}


def _excluded(model: nn.Module, exclude: Patterns) -> set[str]:
    """Paths that match, and everything below them."""
    patterns = _as_patterns(exclude)
    matches = find(model, patterns) if patterns else {}
    return {path for path in _own_modules(model) if any(is_under(path, match) for match in matches)}


def _as_patterns(patterns: Patterns) -> list[Pattern]:
    if isinstance(patterns, str | type) or not isinstance(patterns, Iterable):
        return [patterns]
    return list(patterns)
