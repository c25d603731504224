"""A running average of a model's weights, which is often better than any one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torchard.core.callback import Callback, TrainingRun


class WeightAverage(Callback):
    """Keep an exponential moving average of all weights and running statistics during training.

    The decay is ``min(decay, (1 + step) / (10 + step))``: short runs average over fewer steps, so that the
    random start is forgotten. Read the average in ``model``; inside ``with average.swapped(other)`` the model
    in training itself holds it.

    Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780 (the warm-up of the decay is TensorFlow's). One copy
    of the weights, one pass over them a step.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay={decay}` must be at least 0 and below 1")
        self.decay = decay
        self.steps = 0
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def on_fit_start(self, run: TrainingRun) -> None:
        """Go where the model is: it may have been moved since."""
        present = run.model.state_dict()
        self.tensors = {name: value.to(present[name].device) for name, value in self.tensors.items()}

    def on_step_end(self, run: TrainingRun) -> None:
        """Move the average towards the model's present weights."""
        self.update(run.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``; for loops of your own."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        present = model.state_dict()
        floats = [name for name, value in self.tensors.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floats], [present[name] for name in floats], weight
        )
        for name in self.tensors.keys() - floats:
            self.tensors[name].copy_(present[name])

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """Within the context ``model`` holds the average; afterwards its own weights again, bit for bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        for name, value in self.tensors.items():
            value.copy_(state["tensors"][name])
