"""What the zoo prunes, and how it is run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchard.prune.depgraph.tracer import call, flat_outputs


@dataclass(frozen=True)
class Subject:
    """A model, example inputs, and how to call it if not by them alone."""

    model: nn.Module
    inputs: Any
    forward: Callable[[nn.Module], Any] | None = field(default=None)


def outputs(subject: Subject, model: nn.Module, *, grad: bool = False) -> list[Tensor]:
    """The floating tensors a model answers with; with ``grad`` those that can be differentiated."""
    with torch.set_grad_enabled(grad):
        found = flat_outputs(call(model, subject.inputs, subject.forward))
    return [out for out in found if out.is_floating_point() and (out.requires_grad or not grad)]
