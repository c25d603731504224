"""Prune in one call, or in several steps with training in between."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from torchard.core.budget import latency
from torchard.prune.depgraph.cutting import apply
from torchard.prune.depgraph.rehearsal import rehearse
from torchard.prune.depgraph.report import PruneReport
from torchard.prune.depgraph.selection import plan
from torchard.prune.depgraph.target import Target
from torchard.prune.depgraph.tracer import Examples, call, trace

Schedule = Literal["linear", "cosine", "cubic"]


def prune(model: nn.Module, example_inputs: Examples, **plan_args: Any) -> PruneReport:
    """Trace, plan, rehearse and apply: make ``model`` smaller in place.

    ``plan_args`` are those of :func:`plan`. A latency target without a ``measure`` is timed on the example.

    Raises:
        ValueError: as :func:`trace`, :func:`plan` and :func:`rehearse` do; the model is then unchanged.
    """
    target = plan_args.get("target")
    if isinstance(target, Target) and target.latency is not None and target.measure is None:
        plan_args["target"] = Target(target.macs, target.params, target.latency, _timed(example_inputs))
    chosen = plan(trace(model, example_inputs), **plan_args)
    rehearse(model, chosen, example_inputs)
    return apply(model, chosen)


class IterativePruner:
    """Reach a ratio in ``steps`` calls of :meth:`step`, each followed by as much training as you like.

    The ratio is always relative to the widths the model had when the pruner was made, so any number of
    steps ends at the widths of a single one.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Examples,
        steps: int,
        schedule: Schedule = "linear",
        **plan_args: Any,
    ) -> None:
        if steps < 1:
            raise ValueError(f"`steps={steps}` must be at least 1")
        if plan_args.get("ratio") is None:
            raise ValueError("`ratio` is needed: each step removes a part of it")
        _progress(schedule, 1.0)
        self.model, self.example_inputs = model, example_inputs
        self.steps, self.schedule, self.plan_args = steps, schedule, plan_args
        self.done = 0
        groups = trace(model, example_inputs).groups(heads="both")
        self.original = {group.id: group.size for group in groups}

    def step(self, *, optimizer: torch.optim.Optimizer | None = None) -> PruneReport:
        """Prune to the next ratio of the schedule.

        Raises:
            ValueError: if all steps were made.
        """
        if self.done >= self.steps:
            raise ValueError(f"all {self.steps} steps were made")
        share = _progress(self.schedule, (self.done + 1) / self.steps)
        arguments = {**self.plan_args, "ratio": self.plan_args["ratio"] * share, "original": self.original}
        if ratios := self.plan_args.get("ratios"):
            arguments["ratios"] = {pattern: ratio * share for pattern, ratio in ratios.items()}
        chosen = plan(trace(self.model, self.example_inputs), **arguments)
        rehearse(self.model, chosen, self.example_inputs)
        report = apply(self.model, chosen, optimizer=optimizer)
        self.done += 1
        return report


def _progress(schedule: str, fraction: float) -> float:
    shapes: dict[str, Callable[[float], float]] = {
        "linear": lambda t: t,
        "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
        "cubic": lambda t: 1 - (1 - t) ** 3,
    }
    if schedule not in shapes:
        raise ValueError(f"`schedule={schedule!r}` must be one of {', '.join(shapes)}")
    return shapes[schedule](fraction)


def _timed(example_inputs: Examples) -> Callable[[nn.Module], float]:
    def measure(model: nn.Module) -> float:
        return latency(lambda: call(model.eval(), example_inputs), ()).median_ms

    return measure
