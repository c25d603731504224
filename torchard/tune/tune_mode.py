"""Fine-tune convolutional networks with frozen batch norm statistics at half the memory (Tune mode)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.budget import activation_bytes
from torchard.core.callback import Callback, TrainingRun
from torchard.core.method import Method
from torchard.core.surgery import Patterns, find, flags_kept
from torchard.tune.adapters.errors import NothingToSaveError
from torchard.tune.adapters.sites import is_under
from torchard.tune.conv_bn import conv_bn, fold, uses_running_statistics, why_not
from torchard.tune.fused_pairs import Mode, PairState, compute_as_one, deploy, state_of, to_plain
from torchard.tune.pairs import ConvBN, Pairs, find_pairs
from torchard.tune.statistics import hold_statistics_

METHOD = Method(
    shapes=("transform",),
    source="You et al., ICLR 2024, arXiv 2305.11624",
    claim="Gives the results of fine-tuning with frozen batch norms, keeping about half the activations.",
)

__all__ = [
    "Mode",
    "ModeReport",
    "NoPairsError",
    "TuneMode",
    "attach",
    "conv_bn",
    "deploy_step_amplification",
    "detach",
    "find_pairs",
    "fold",
    "merge",
    "mode_of",
    "save",
    "set_mode",
]


class NoPairsError(ValueError):
    """The model has no convolution whose output goes into a batch norm and nowhere else."""


def set_mode(
    model: nn.Module,
    mode: Mode,
    *,
    example: Any = None,
    recompute: bool = True,
    keep_original: bool = True,
    modules: Patterns | None = None,
) -> "ModeReport":
    """Choose how every pair of convolution and batch norm computes, in place, and say what became of each.

    ``"tune"``: as one convolution with scaled weights wherever the norm is in eval mode (You et al. 2024,
    sec. 3): values and gradients of Eval mode, while the backward pass keeps the convolution's input only.
    ``"deploy"``: the convolution is replaced by a folded copy, the norm by its activation. ``"train"`` and
    ``"eval"``: as separate layers, with the norms of all pairs put into that mode; the other two leave flags
    alone. No parameter, buffer or key changes but in ``"deploy"``, whose originals are kept for the way back
    unless ``keep_original=False``.

    ``example`` is run once to see which output goes where (and a second and third time to compare the memory
    of ``"tune"``); without it ``torch.fx`` traces what it can. ``modules`` limits it to the pairs below them.
    ``model.train()`` puts norms into train mode, where they compute as ever: :class:`TuneMode` or
    :func:`~torchard.tune.statistics.hold_statistics_` keeps them from it.

    Raises:
        NoPairsError: if there is no pair.
        ValueError: if the mode is unknown, a norm to fold has an impossible variance, or the model is
            deployed without originals.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"`mode={mode!r}` must be one of {', '.join(get_args(Mode))}.")
    to_plain(model)
    found = _limited(model, find_pairs(model, example), modules)
    if not found.pairs:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.skipped.items())[:3])
        raise NoPairsError(
            f"{type(model).__name__} has no convolution that feeds one batch norm and nothing else"
            f"{f' ({reasons})' if reasons else ''}."
        )
    ratio = None
    if mode == "tune":
        before = _kept_in_eval(model, example)
        compute_as_one(model, found.pairs, recompute=recompute)
        after = _kept_in_eval(model, example)
        ratio = after / before if before and after else None
    elif mode == "deploy":
        deploy(model, found.pairs, keep_original=keep_original)
    else:
        for pair in found.pairs:
            model.get_submodule(pair.bn).train(mode == "train")
    return ModeReport(mode, found.pairs, found.skipped, ratio)


def attach(
    model: nn.Module, *, example: Any = None, recompute: bool = True, modules: Patterns | None = None
) -> nn.Module:
    """Put the model into Tune mode, in place, and return it; see :func:`set_mode`."""
    set_mode(model, "tune", example=example, recompute=recompute, modules=modules)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Let every layer compute as its class says, in place, and return the model; flags stay.

    Raises:
        ValueError: if it is deployed and the originals were not kept.
    """
    to_plain(model)
    return model


def merge(model: nn.Module, *, example: Any = None, keep_original: bool = True) -> nn.Module:
    """Fold every pair into one convolution for deployment, in place, and return the model."""
    set_mode(model, "deploy", example=example, keep_original=keep_original)
    return model


def save(model: nn.Module, path: object, name: str | None = None) -> None:
    """Refuse: Tune mode adds no numbers, so the model's own state dict is all there is.

    Raises:
        NothingToSaveError: always.
    """
    raise NothingToSaveError("Tune mode adds no numbers of its own; save the model's state dict.")


@dataclass(frozen=True)
class ModeReport:
    """What :func:`set_mode` did.

    ``saved_ratio`` is what Tune mode keeps for the backward pass over what Eval mode keeps, on the example.
    """

    mode: Mode
    pairs: tuple[ConvBN, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    saved_ratio: float | None = None

    def __str__(self) -> str:
        lines = [f"{self.mode}: {len(self.pairs)} pairs of convolution and batch norm"]
        if self.saved_ratio is not None:
            lines[0] += f", {self.saved_ratio:.2f}x of Eval mode's bytes kept for the backward pass"
        return "\n".join([*lines, *(f"skipped {name}: {why}" for name, why in self.skipped.items())])

    def to_json(self) -> dict[str, Any]:
        """Return the same facts as plain JSON values."""
        pairs = [[pair.conv, pair.bn, pair.calls] for pair in self.pairs]
        return {
            "mode": self.mode,
            "pairs": pairs,
            "skipped": dict(self.skipped),
            "saved_ratio": self.saved_ratio,
        }


def mode_of(model: nn.Module) -> dict[str, Mode]:
    """Return the mode in which each batch norm of a pair computes now, by the norm's name.

    Where :func:`set_mode` has not been called the pairs are traced. A norm in train mode is in ``"train"``
    whatever was set.
    """
    state = state_of(model)
    pairs = state.pairs if state else find_pairs(model).pairs
    return {pair.bn: _mode_of_norm(model, state, pair.bn) for pair in pairs}


def deploy_step_amplification(model: nn.Module, example: Any = None) -> dict[str, Float[Tensor, " c"]]:
    """Return how much larger training steps are in Deploy mode than in Eval mode, per channel of each pair.

    The folded weight is ``s`` times the weight and its gradient ``1 / s`` times, so under SGD the relative
    step grows by ``1 / s²``; infinite where the norm's weight is zero.
    """
    found = {}
    for pair in find_pairs(model, example):
        bn: Any = model.get_submodule(pair.bn)
        gamma = 1.0 if bn.weight is None else bn.weight.detach()
        found[pair.conv] = (bn.running_var + bn.eps) / torch.as_tensor(gamma).square()
    return found


class TuneMode(Callback):
    """Train in Tune mode: enter it at the start, hold all batch norm statistics, leave it at the end."""

    def __init__(self, *, example: Any = None, recompute: bool = True) -> None:
        self.example = example
        self.recompute = recompute

    def on_fit_start(self, run: TrainingRun) -> None:
        """Enter Tune mode."""
        attach(run.model, example=self.example, recompute=self.recompute)
        hold_statistics_(run.model)

    def on_epoch_start(self, run: TrainingRun) -> None:
        """Hold the statistics again, should anything have called ``model.train()``."""
        hold_statistics_(run.model)

    def on_fit_end(self, run: TrainingRun) -> None:
        """Leave Tune mode; the model is an ordinary one again."""
        detach(run.model)


def _limited(model: nn.Module, found: Pairs, modules: Patterns | None) -> Pairs:
    """Only pairs that can be computed as one, and lie below the wanted modules."""
    below = None if modules is None else list(find(model, modules))
    pairs, skipped = [], dict(found.skipped)
    for pair in found.pairs:
        if below is not None and not any(is_under(pair.bn, path) for path in below):
            continue
        reason = why_not(model.get_submodule(pair.conv), model.get_submodule(pair.bn))
        if reason:
            skipped[pair.bn] = reason
        else:
            pairs.append(pair)
    return Pairs(tuple(pairs), skipped)


def _kept_in_eval(model: nn.Module, example: Any) -> int:
    if example is None:
        return 0
    with flags_kept(model):
        return activation_bytes(model.eval(), example)


def _mode_of_norm(model: nn.Module, state: PairState | None, name: str) -> Mode:
    if state is not None and state.mode == "deploy":
        return "deploy"
    if not uses_running_statistics(model.get_submodule(name)):
        return "train"
    return state.mode if state is not None else "eval"
