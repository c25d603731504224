"""Find, replace, wrap and freeze the modules of a network, by name pattern or by type.

A pattern is a shell glob over the full dotted name (``"blocks.*.attn"``; ``*`` also crosses dots), a
regular expression (``re.compile(...)``, or a string that opens with ``re:``) which must match the whole
name, or a module class.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

Pattern = str | re.Pattern[str] | type[nn.Module]
Patterns = Pattern | Iterable[Pattern]


def find(model: nn.Module, patterns: Patterns) -> dict[str, nn.Module]:
    """Return the submodules that match any of ``patterns``, by name, in the model's own order.

    The model itself (whose name is empty) is never among them; a module shared by two places appears once.

    Raises:
        ValueError: if one of the patterns matches nothing; the nearest names are listed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    chosen: set[str] = set()
    for pattern in _as_list(patterns):
        names = _matching(modules, pattern)
        if not names:
            raise ValueError(_nothing_matched(pattern, modules, model))
        chosen.update(names)
    return {name: module for name, module in modules.items() if name in chosen}


def replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put ``module`` at ``name``, in place, and return the module that stood there.

    A module that the network uses in several places is replaced in all of them. The newcomer takes over
    the training flag, so that replacing a layer of a model in eval mode leaves it in eval mode.

    Raises:
        ValueError: if the model has no module of this name.
    """
    places = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in places:
        raise ValueError(_nothing_matched(name, places, model))
    old = places[name]
    module.train(old.training)
    for place in [place for place, found in places.items() if found is old]:
        model.set_submodule(place, module)
    return old


def wrap(
    model: nn.Module, patterns: Patterns, make: Callable[[nn.Module], nn.Module]
) -> dict[str, nn.Module]:
    """Replace every module that matches by ``make(module)``, in place; return the newcomers by name.

    Nested matches are wrapped from the inside out, so that each is wrapped exactly once.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    found = find(model, patterns)
    made: dict[str, nn.Module] = {}
    for name in sorted(found, key=lambda name: name.count("."), reverse=True):
        made[name] = make(found[name])
        replace(model, name, made[name])
    return {name: made[name] for name in found}


@dataclass(frozen=True)
class Flags:
    """Which modules were training and which parameters wanted gradients, by identity."""

    training: tuple[tuple[nn.Module, bool], ...]
    requires_grad: tuple[tuple[nn.Parameter, bool], ...]

    def restore(self) -> None:
        """Set every flag back to what it was; modules and parameters added since are left alone."""
        for module, training in self.training:
            module.training = training
        for parameter, requires_grad in self.requires_grad:
            parameter.requires_grad_(requires_grad)


def flags(model: nn.Module) -> Flags:
    """Return the training and gradient flags of every module and parameter, to be restored later."""
    return Flags(
        tuple((module, module.training) for module in model.modules()),
        tuple((parameter, parameter.requires_grad) for parameter in model.parameters()),
    )


@contextmanager
def flags_kept(model: nn.Module) -> Iterator[nn.Module]:
    """Give the model back at the end with the flags it came with, also after an error."""
    before = flags(model)
    try:
        yield model
    finally:
        before.restore()


def freeze(model: nn.Module, patterns: Patterns | None = None) -> Flags:
    """Stop gradients of the matching modules' parameters (default: of all), in place.

    Patterns are matched against module names and types, and against parameter names (``"*.bias"``). What
    comes back remembers the flags as they were: ``freeze(model).restore()`` changes nothing.

    Raises:
        ValueError: if a pattern matches neither a module nor a parameter.
    """
    before = flags(model)
    parameters = model.parameters() if patterns is None else _parameters(model, patterns)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return before


@contextmanager
def frozen(model: nn.Module, patterns: Patterns | None = None) -> Iterator[nn.Module]:
    """Freeze within a ``with`` block, and restore every flag at its end, also after an error."""
    before = freeze(model, patterns)
    try:
        yield model
    finally:
        before.restore()


def hold_frozen_(model: nn.Module) -> None:
    """Put layers of which nothing is trained into eval mode, until the next ``model.train()``."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def classifier_name(model: nn.Module) -> str:
    """Return the name of the layer that turns features into class scores.

    timm says it in ``pretrained_cfg["classifier"]`` (of several heads the first is taken); otherwise it is
    the last linear layer, or, where there is none, the last 1×1 convolution.

    Raises:
        ValueError: if the model has none of these.
    """
    names = dict(model.named_modules())
    declared = getattr(model, "pretrained_cfg", None) or {}
    heads = declared.get("classifier") or ()
    for name in (heads,) if isinstance(heads, str) else tuple(heads):
        if name in names:
            return name
    linear = [name for name, module in names.items() if name and isinstance(module, nn.Linear)]
    pointwise = [name for name, module in names.items() if name and _is_pointwise(module)]
    if not linear and not pointwise:
        raise ValueError(
            f"{type(model).__name__} has no linear layer and no 1×1 convolution to be its classifier. "
            "Name the layer whose output you want instead."
        )
    return (linear or pointwise)[-1]


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def _as_list(patterns: Patterns) -> list[Pattern]:
    if isinstance(patterns, str | re.Pattern | type):
        return [patterns]
    return list(patterns)


def _matching(modules: Mapping[str, nn.Module], pattern: Pattern) -> list[str]:
    if isinstance(pattern, type):
        return [name for name, module in modules.items() if isinstance(module, pattern)]
    return [name for name in modules if _name_matches(name, pattern)]


def _name_matches(name: str, pattern: str | re.Pattern[str]) -> bool:
    if isinstance(pattern, str) and pattern.startswith("re:"):
        pattern = re.compile(pattern.removeprefix("re:"))
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return fnmatch.fnmatchcase(name, pattern)


def _parameters(model: nn.Module, patterns: Patterns) -> list[nn.Parameter]:
    """Parameters of matching modules and parameters whose own name matches."""
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    found: list[nn.Parameter] = []
    for pattern in _as_list(patterns):
        owners = _matching(modules, pattern)
        own = (
            [] if isinstance(pattern, type) else [name for name in parameters if _name_matches(name, pattern)]
        )
        if not owners and not own:
            raise ValueError(_nothing_matched(pattern, {**modules, **parameters}, model))
        found += [parameter for name in owners for parameter in modules[name].parameters()]
        found += [parameters[name] for name in own]
    return found


def _nothing_matched(pattern: Pattern, names: Mapping[str, object], model: nn.Module) -> str:
    if isinstance(pattern, type):
        kinds = sorted({type(module).__name__ for module in names.values() if isinstance(module, nn.Module)})
        near = difflib.get_close_matches(pattern.__name__, kinds, n=5, cutoff=0.0)
        return f"{type(model).__name__} has no module of type {pattern.__name__}. It has: {', '.join(near)}."
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    near = difflib.get_close_matches(text, [name for name in names if name], n=5, cutoff=0.0)
    return f"{text!r} matches nothing in {type(model).__name__}. Nearest names: {', '.join(near) or 'none'}."
