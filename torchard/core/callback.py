"""The eight moments of a training at which a method can plug itself in, and what it is handed there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchard.core.data.batch import Batch


@dataclass
class TrainingRun:
    """What a callback sees of a training. ``step`` and ``epoch`` count those that are done.

    ``model`` and ``optimizer`` are the user's own, unwrapped. ``fraction`` of the budget is used, 0 to 1.
    ``generator`` is the one source of randomness for callbacks: the same in every process, and checkpointed.
    """

    model: nn.Module
    optimizer: Optimizer
    generator: torch.Generator
    log: Callable[..., None]
    step: int = 0
    epoch: int = 0
    fraction: float = 0.0
    stopped_by: str | None = None

    def stop(self, reason: str) -> None:
        """End the training after this step, for ``reason``; the first reason stays."""
        self.stopped_by = self.stopped_by or reason

    def state_dict(self) -> dict[str, Any]:
        """Return how far the training is."""
        return {name: getattr(self, name) for name in ("step", "epoch", "fraction", "stopped_by")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""
        self.step, self.epoch, self.fraction = state["step"], state["epoch"], state["fraction"]
        self.stopped_by = state["stopped_by"]


@dataclass(frozen=True)
class FitResult:
    """What a training did. ``stopped_by`` is ``epochs``, ``steps``, ``seconds`` or a callback's reason."""

    steps: int
    epochs: int
    seconds: float
    stopped_by: str
    history: list[dict[str, Any]]


class Callback:
    """Override the moments needed; those that return something hand it to the next callback in the list.

    What must survive a kill goes through ``state_dict``: tensors, numbers, text, lists, tuples, dicts.
    """

    def on_fit_start(self, run: TrainingRun) -> None:
        """Before the first step, also of a resumed training; the checkpoint is loaded after this."""

    def on_epoch_start(self, run: TrainingRun) -> None:
        """Before the first batch of an epoch; of a resumed one again, before the checkpoint is loaded."""

    def on_batch(self, run: TrainingRun, batch: Batch) -> Batch:
        """Return the batch to train on; it is on the model's device already."""
        return batch

    def on_loss(self, run: TrainingRun, outputs: Any, batch: Batch, loss: Tensor) -> Tensor:
        """Return the scalar to minimise."""
        return loss

    def on_gradients(self, run: TrainingRun) -> None:
        """After the backward pass, before the optimizer's step."""

    def on_step_end(self, run: TrainingRun) -> None:
        """After the optimizer's step; ``run.step`` counts it already."""

    def on_evaluated(self, run: TrainingRun, metrics: dict[str, Any]) -> None:
        """After each evaluation, with what it returned."""

    def on_fit_end(self, run: TrainingRun) -> None:
        """At the end: always, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a kill."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned before the kill."""
