"""How pairs of convolution and batch norm are made to compute as one, and back, inside the user's model.

The two layers get another ``forward`` on the instance; nothing else of the model changes. The convolution
computes the normalised output, and the norm, which is handed that very tensor, lets it pass.
"""

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from torchard.core.surgery import replace
from torchard.tune.adapters.site_adapter import inner_step, remove_function
from torchard.tune.conv_bn import after_norm, fold, fused, uses_running_statistics
from torchard.tune.pairs import ConvBN

Mode = Literal["train", "eval", "tune", "deploy"]

_STATE, _PARTNERS, _PENDING, _CALLS = (
    "torchard_tune_mode",
    "torchard_partners",
    "torchard_pending",
    "torchard_calls",
)


@dataclass
class PairState:
    """What the root remembers: the pairs, the mode, and in Deploy mode the layers that were replaced."""

    mode: Mode
    pairs: tuple[ConvBN, ...]
    originals: dict[str, nn.Module] | None = None
    warned: bool = False


def state_of(model: nn.Module) -> PairState | None:
    """Return what the model remembers, or ``None`` if every layer computes as its class says."""
    return model.__dict__.get(_STATE)


def compute_as_one(model: nn.Module, pairs: Iterable[ConvBN], *, recompute: bool) -> None:
    """Switch the pairs of a plain model to one convolution each, in place."""
    pairs = tuple(pairs)
    setattr(model, _STATE, PairState("tune", pairs))
    for pair in pairs:
        conv, bn = model.get_submodule(pair.conv), model.get_submodule(pair.bn)
        # Into __dict__: the partner must not become a submodule, nor a key of the state dict.
        conv.__dict__[_PARTNERS] = (*conv.__dict__.get(_PARTNERS, ()), *[bn] * pair.calls)
        # Partials of module-level functions, unlike bound methods, survive deepcopy and pickle.
        conv.__dict__["forward"] = functools.partial(_conv_forward, conv, recompute)
        bn.__dict__["forward"] = functools.partial(_norm_forward, bn)
        bn.__dict__[_PENDING] = None
    model.register_forward_pre_hook(_begin_pass)
    model.register_forward_hook(_end_pass)


def to_plain(model: nn.Module) -> None:
    """Undo either switch, in place; flags stay.

    Raises:
        ValueError: if the model is deployed and the originals were not kept.
    """
    state: PairState | None = model.__dict__.pop(_STATE, None)
    if state is None:
        return
    if state.mode == "deploy":
        if state.originals is None:
            setattr(model, _STATE, state)
            raise ValueError("the model is deployed and the originals were not kept (`keep_original=False`).")
        for name, module in state.originals.items():
            replace(model, name, module)
        return
    for name in {name for pair in state.pairs for name in (pair.conv, pair.bn)}:
        module = model.get_submodule(name)
        for key in ("forward", _PARTNERS, _PENDING, _CALLS):
            module.__dict__.pop(key, None)
    remove_function(model._forward_pre_hooks, _begin_pass)
    remove_function(model._forward_hooks, _end_pass)


def _conv_forward(conv: nn.Module, recompute: bool, x: Tensor) -> Tensor:
    """In place of the convolution's forward: compute conv and norm as one where the norm allows it."""
    partners = conv.__dict__[_PARTNERS]
    calls = conv.__dict__.get(_CALLS, 0)
    if len(partners) > 1:
        conv.__dict__[_CALLS] = calls + 1
    bn = partners[calls % len(partners)]
    if not uses_running_statistics(bn) or (isinstance(conv, nn.Linear) and x.ndim != 2):
        plain: Tensor = type(conv).forward(conv, x)
        return plain
    output = fused(x, conv, bn, recompute=recompute)
    bn.__dict__[_PENDING] = output
    return output


def _norm_forward(bn: nn.Module, x: Tensor) -> Tensor:
    """In place of the norm's forward: hand on what its convolution has normalised already."""
    pending = bn.__dict__[_PENDING]
    if pending is None or x is not pending:
        plain: Tensor = type(bn).forward(bn, x)
        return plain
    bn.__dict__[_PENDING] = None
    return after_norm(bn, x)


def _begin_pass(model: nn.Module, _inputs: Any) -> None:
    """Root pre-hook: forget what an interrupted pass may have left."""
    for pair in model.__dict__[_STATE].pairs:
        model.get_submodule(pair.bn).__dict__[_PENDING] = None
        model.get_submodule(pair.conv).__dict__.pop(_CALLS, None)


def _end_pass(model: nn.Module, _inputs: Any, _output: Any) -> None:
    """Root hook: every fused output must have reached its norm; say once if none was fused in training."""
    state: PairState = model.__dict__[_STATE]
    astray = [pair for pair in state.pairs if model.get_submodule(pair.bn).__dict__[_PENDING] is not None]
    if astray:
        raise RuntimeError(
            f"the output of {astray[0].conv} did not go into {astray[0].bn} in this pass, as it did before: "
            "the model's flow depends on its data. Leave it out of Tune mode with `modules=`."
        )
    if model.training and not state.warned:
        norms = [model.get_submodule(pair.bn) for pair in state.pairs]
        if not any(uses_running_statistics(norm) for norm in norms):
            state.warned = True
            warnings.warn(
                "Tune mode saves nothing while batch norms are in train mode. Call `hold_statistics_(model)` "
                "after `model.train()`, or use the TuneMode callback.",
                stacklevel=2,
            )


def deploy(model: nn.Module, pairs: Iterable[ConvBN], *, keep_original: bool) -> None:
    """Replace each pair of a plain model by a folded convolution and what remains of the norm, in place.

    Raises:
        ValueError: naming the layer, if one cannot be folded; nothing was changed.
    """
    pairs = tuple(pairs)
    shared = [pair.conv for pair in pairs if sum(other.conv == pair.conv for other in pairs) > 1]
    if shared:
        raise ValueError(
            f"{shared[0]} feeds several batch norms and cannot be folded; use `modules=` without it."
        )
    folded = {}
    for pair in pairs:
        try:
            folded[pair.conv] = fold(model.get_submodule(pair.conv), model.get_submodule(pair.bn))
        except ValueError as error:
            raise ValueError(f"{pair.bn}: {error}") from None
        folded[pair.bn] = _what_remains(model.get_submodule(pair.bn))
    originals = {name: replace(model, name, module) for name, module in folded.items()}
    setattr(model, _STATE, PairState("deploy", pairs, originals if keep_original else None))


def _what_remains(bn: nn.Module) -> nn.Module:
    step = inner_step(bn)
    return nn.Identity() if step is None else nn.Sequential(step, bn.get_submodule("act"))
