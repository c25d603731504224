"""Cut the tuned model down to the user's targets, then train what is left with the tuned model as teacher."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from torchard import hub
from torchard.core.budget import Latency, Limit, compare_latency, count_macs, count_params, file_bytes
from torchard.core.callback import Callback, TrainingRun
from torchard.core.data import Batch, InputSpec
from torchard.core.surgery import hold_frozen_
from torchard.pipeline.job import Job, cost_line, stopwatch
from torchard.pipeline.planning import (
    Pace,
    Plan,
    example_images,
    inference_seconds,
    measure_pace,
    phase_sizes,
    plan_training,
)
from torchard.pipeline.training import Distil, criterion, evaluate_split, loader, optimizer, scalars, train
from torchard.pipeline.tune import Tuned, only_upper_, whole_
from torchard.prune import depgraph
from torchard.prune.depgraph.importance import taylor

TENSORS = "pruned.safetensors"
ROUND_TO = 8  # channels in whole vectors: what keeps a smaller model a faster one
MAX_RATIO = 0.8  # a group that lost nearly all its channels does not recover
CALIBRATION_BATCHES = 8
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Pruned:
    """The small model, what it reads, and the facts in ``prune.json``."""

    model: nn.Module
    spec: InputSpec
    facts: Mapping[str, Any]

    @property
    def reached(self) -> bool:
        """Whether every target is kept."""
        return bool(self.facts["reached"])


def prune(job: Job, tuned: Tuned) -> Pruned:
    """Return a model within the targets, recovered from ``tuned``; cached in the run folder and resumable.

    Channels of all groups are ranked together, by their Taylor importance on real batches for each operation
    that goes with them (for each parameter, where nothing else is limited), and cut at once. The training
    that follows has the tuned model as its teacher, and leaves the lower layers alone in its second half. If
    no model keeps all targets, the nearest one stays and ``reached`` is False.

    Raises:
        UnprunableError: if nothing in the model can be removed.
        DivergedError: if the loss became NaN or infinite.
    """
    facts = job.stage("prune", tuned.facts, lambda: _prune(job, tuned), files=[TENSORS])
    model = depgraph.load_pruned(job.run.path / TENSORS, model=architecture(job, tuned))
    return Pruned(model.to(memory_format=torch.channels_last).eval(), tuned.spec, facts)


def architecture(job: Job, tuned: Tuned) -> nn.Module:
    """Return the tuned model's architecture with random weights."""
    return hub.load(tuned.name, num_classes=len(job.task.classes), pretrained=False)


def cut(model: nn.Module, job: Job, spec: InputSpec) -> tuple[depgraph.PruneReport, bool]:
    """Cut ``model`` in place to the targets, or as near as it goes, and say whether they are kept.

    Gradients for the importance come from a few augmented batches, summed, in eval mode.
    """
    accumulate_gradients(model, job, spec)
    graph = depgraph.trace(model, example_images(1, spec.size[0]))
    target = depgraph.Target(**job.settings.targets, measure=lambda small: _milliseconds(small, spec))
    try:
        plan, reached = _planned(graph, target), True
    except depgraph.UnreachableTargetError as error:
        plan, reached = error.nearest, False
    model.zero_grad(set_to_none=True)
    return depgraph.apply(model, plan), reached


def accumulate_gradients(model: nn.Module, job: Job, spec: InputSpec) -> None:
    """Leave in ``model`` the gradients of the loss, summed over a few training batches, in eval mode."""
    model.eval().zero_grad(set_to_none=True)
    loss = criterion(job.task)
    batches = loader(job.task, spec, 32, seed=job.settings.seed)
    for batch in islice(batches, CALIBRATION_BATCHES):
        loss(model(batch.inputs), batch.targets).backward()


def compared(before: nn.Module, after: nn.Module, spec: InputSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return params, MACs, tensor bytes and latency (ms, one image) of two models, timed in turn."""
    example = example_images(1, spec.size[0])
    times = compare_latency(before, after, example)
    return _costs(before, example, times.before), _costs(after, example, times.after)


def kept(limits: Mapping[str, Limit], before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether the costs ``after`` are within every limit."""
    names = {"macs": "macs", "params": "params", "latency": "latency_ms"}
    return all(after[names[name]] <= limit.amount(before[names[name]]) for name, limit in limits.items())


def _prune(job: Job, tuned: Tuned) -> dict[str, Any]:
    task, spec, seconds = job.task, tuned.spec, job.share("prune")
    with stopwatch() as elapsed:
        small = copy.deepcopy(tuned.model)
        report, within = cut(small, job, spec)
        facts = report.to_json()
        raw = evaluate_split(small, task, task.validation, spec, precision=tuned.precision)
        job.say(f"prune: {cost_line(facts['before'])} → {cost_line(facts['after'])}")
        plan = _plan(job, small, tuned, seconds - elapsed())
        train(
            small,
            task,
            spec,
            plan,
            optimizer=optimizer(small, LEARNING_RATE, WEIGHT_DECAY),
            stage=job.run.stage("prune", key=job.key("prune", tuned.facts)),
            callbacks=[Distil(tuned.model, precision=plan.precision), Settled()],
            seed=job.settings.seed,
            seconds=max(1.15 * (seconds - elapsed()), 0.2 * seconds),
        )
        validation = evaluate_split(small, task, task.validation, spec, precision=tuned.precision)
        before, after = compared(tuned.model, small, spec)
    depgraph.save_pruned(small, job.run.path / TENSORS, factory=lambda: architecture(job, tuned))
    reached = within and kept(job.settings.targets, before, after)
    job.say(f"prune: {task.metric} on validation {validation[task.metric]:.1%}")
    full = tuned.facts["validation"]
    return {
        **facts,
        "target": {name: str(limit) for name, limit in job.settings.targets.items()},
        "reached": reached,
        "before": before,
        "after": after,
        "plan": plan.to_json(),
        "validation_before": full,
        "validation_after": scalars(validation),
        "steps": [
            {"name": "tuned", "macs": before["macs"], "accuracy": full[task.metric]},
            {"name": "cut", "macs": after["macs"], "accuracy": raw[task.metric]},
            {"name": "recovered", "macs": after["macs"], "accuracy": validation[task.metric]},
        ],
    }


def _planned(graph: depgraph.DimGraph, target: depgraph.Target) -> depgraph.Plan:
    return depgraph.plan(
        graph,
        target=target,
        criterion=taylor,
        scope="global",
        per="params" if target.macs is None and target.latency is None else "macs",
        normalize=None,
        round_to=ROUND_TO,
        max_ratio=MAX_RATIO,
    )


class Settled(Callback):
    """Train all layers in the first half, on small images; in the second the lower ones are frozen.

    They have the largest maps, so that most of a step goes into them, and adapt to lost channels early.
    """

    def __init__(self) -> None:
        self.done = False

    def on_batch(self, run: TrainingRun, batch: Batch) -> Batch:
        if not self.done and run.fraction >= 0.5:
            self.done = True
            only_upper_(run.model)
            hold_frozen_(run.model)
        return batch

    def on_fit_end(self, run: TrainingRun) -> None:
        """Leave an ordinary model, all of which can be trained."""
        whole_(run.model)


def _plan(job: Job, small: nn.Module, tuned: Tuned, seconds: float) -> Plan:
    """The recovery's plan; measured once per run, so that a resumed run keeps it."""

    def compute() -> dict[str, Any]:
        sizes = phase_sizes(tuned.spec.size[0])
        first = measure_pace(small, sizes[0])
        only_upper_(small)
        later = measure_pace(small, sizes[-1])
        whole_(small)
        answer = inference_seconds(tuned.model, sizes[-1], later.precision)
        teacher = Pace(sizes[-1], later.precision, answer)
        return plan_training(
            first.with_extra(teacher.at(sizes[0])),
            sizes,
            len(job.task.train),
            0.95 * seconds,
            later=later.with_extra(answer),
        ).to_json()

    key = {"tuned": job.key("prune", tuned.facts)}
    return Plan.from_json(job.run.cached("recovery-plan", key, compute))


def _milliseconds(model: nn.Module, spec: InputSpec) -> float:
    example = example_images(1, spec.size[0])
    return compare_latency(model, model, example, repeats=15).before.median_ms


def _costs(model: nn.Module, example: Tensor, time: Latency) -> dict[str, Any]:
    return {
        "params": count_params(model),
        "macs": count_macs(model, example),
        "bytes": file_bytes(model),
        "latency_ms": time.median_ms,
    }
