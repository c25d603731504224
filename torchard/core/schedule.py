"""Learning rates over a training: a function of the used part of its budget, or torch's schedulers."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchard.core.errors import UsageError

Scheduler = Callable[[float], float] | LRScheduler


class Schedule:
    """Set learning rates around each step.

    A function gives the factor on each parameter group's ``initial_lr`` for the fraction used, before the
    step; an ``LRScheduler`` is stepped after it.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Scheduler | None) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UsageError(
                "`scheduler=ReduceLROnPlateau` needs a metric: step it in a callback's on_evaluated."
            )
        self.optimizer = optimizer
        self.stepped = scheduler if isinstance(scheduler, LRScheduler) else None
        self.factor = None if isinstance(scheduler, LRScheduler) else scheduler

    def before_step(self, fraction: float) -> None:
        """Set this step's learning rates, when ``fraction`` of the budget is used."""
        if self.factor is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(fraction)

    def after_step(self) -> None:
        """Let a torch scheduler count the step."""
        if self.stepped is not None:
            self.stepped.step()

    @property
    def learning_rate(self) -> float:
        """The first parameter group's, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the torch scheduler's state; a function has none."""
        return {} if self.stepped is None else self.stepped.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        if self.stepped is not None:
            self.stepped.load_state_dict(state)
