"""Notice a training that has gone wrong before it is saved over a good one."""

import math

import torch
from torch.optim import Optimizer

from torchard.core.errors import DivergedError

STILL_STEPS = 50


def gradient_norm(optimizer: Optimizer) -> float:
    """Return the Euclidean norm of all gradients the optimizer is about to use; 0 if there are none."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0


class Watch:
    """Count steps that moved nothing, and raise when loss or gradients say that training is over."""

    def __init__(self) -> None:
        self.still = 0

    def check(self, loss: float, norm: float, *, step: int, saved: str) -> None:
        """Take note of a step's loss and gradient norm before the optimizer uses them.

        Raises:
            DivergedError: naming the step and the last good checkpoint (``saved``), if one of them is NaN or
                infinite, or the gradients have been exactly zero 50 steps in a row.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"The loss became {loss} at step {step}; {saved}. Try a lower learning rate.")
        if not math.isfinite(norm):
            raise DivergedError(
                f"The gradients became {norm} at step {step}; {saved}. Try a lower learning rate."
            )
        self.still = self.still + 1 if norm == 0 else 0
        if self.still >= STILL_STEPS:
            raise DivergedError(
                f"All gradients have been zero for {self.still} steps, up to step {step}; {saved}. "
                "Nothing is learnt: are the right parameters trained, and does the loss depend on them?"
            )

    def state_dict(self) -> dict[str, int]:
        """Return how many steps in a row moved nothing."""
        return {"still": self.still}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from there."""
        self.still = state["still"]
