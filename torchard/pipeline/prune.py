"""Cut the tuned model down to the user's targets, refit what is left, and let the tuned one teach it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from torchard import hub
from torchard.core.budget import Latency, Limit, compare_latency, count_macs, count_params, file_bytes
from torchard.core.data import InputSpec
from torchard.pipeline.job import Job, cost_line, stopwatch
from torchard.pipeline.planning import (
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
from torchard.prune.depgraph.importance import Criterion

TENSORS = "pruned.safetensors"
ROUND_TO = 8  # channels in whole vectors: what keeps a smaller model a faster one
MAX_RATIO = 0.8  # a group that lost nearly all its channels does not recover
CALIBRATION_IMAGES = 256
CALIBRATION_PIXELS = 4_000_000  # of one batch; MobileNetV2 takes three gigabytes for it
FEW = 8  # images whose gradients are summed: alone they would take longer and tell no more
PLANNED = 0.95  # of the time left is planned for steps, which may cost more than was measured
LEARNING_RATE = 3e-4
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

    Channels of all groups are ranked together, by their Fisher importance on real images for each operation
    that goes with them (for each parameter, where nothing else is limited), and cut at once. What is left is
    refitted layer by layer to what the tuned model computes; then the upper layers are trained, with that
    model as teacher. If no model keeps all targets, the nearest one stays and ``reached`` is False.

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
    """Return a cut copy of ``model`` within the targets, or as near as it goes, and whether they are kept.

    The importance and what the layers are refitted to come from augmented training images, in eval mode.
    """
    loss = criterion(job.task)
    few = islice(loader(job.task, spec, FEW, seed=job.settings.seed), CALIBRATION_IMAGES // FEW)
    graph = depgraph.trace(model.eval(), example_images(1, spec.size[0]))
    importance = depgraph.fisher(graph, lambda cut, batch: loss(cut(batch.inputs), batch.targets), few)
    target = depgraph.Target(**job.settings.targets, measure=lambda small: _milliseconds(small, spec))
    try:
        plan, reached = _planned(graph, target, importance), True
    except depgraph.UnreachableTargetError as error:
        plan, reached = error.nearest, False
    report = depgraph.apply(model, plan, inplace=False)
    depgraph.reconstruct_(report.model, model, plan, calibration_images(job, spec))
    return report, reached


def calibration_images(job: Job, spec: InputSpec) -> Tensor:
    """Return augmented training images in one batch, fewer where they are large."""
    most = min(CALIBRATION_IMAGES, CALIBRATION_PIXELS // (spec.size[0] * spec.size[1]))
    return next(iter(loader(job.task, spec, most, seed=job.settings.seed))).inputs


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
        report, within = cut(tuned.model, job, spec)
        small, facts = report.model, report.to_json()
        raw = evaluate_split(small, task, task.validation, spec, precision=tuned.precision)
        job.say(f"prune: {cost_line(facts['before'])} → {cost_line(facts['after'])}")
        only_upper_(small)  # the lower layers are as good as they get: refitted, and not trained before
        plan = _plan(job, small, tuned, seconds - elapsed())
        train(
            small,
            task,
            spec,
            plan,
            optimizer=optimizer(small, LEARNING_RATE, WEIGHT_DECAY),
            stage=job.run.stage("prune", key=job.key("prune", tuned.facts)),
            callbacks=[Distil(tuned.model, precision=plan.precision)],
            seed=job.settings.seed,
            seconds=max(1.15 * (seconds - elapsed()), 0.2 * seconds),
        )
        whole_(small)
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


def _planned(graph: depgraph.DimGraph, target: depgraph.Target, importance: Criterion) -> depgraph.Plan:
    return depgraph.plan(
        graph,
        target=target,
        criterion=importance,
        scope="global",
        per="params" if target.macs is None and target.latency is None else "macs",
        normalize=None,
        round_to=ROUND_TO,
        max_ratio=MAX_RATIO,
    )


def _plan(job: Job, small: nn.Module, tuned: Tuned, seconds: float) -> Plan:
    """The recovery's plan; measured once per run, so that a resumed run keeps it."""

    def compute() -> dict[str, Any]:
        sizes = phase_sizes(tuned.spec.size[0])
        pace = measure_pace(small, sizes[-1])
        answer = inference_seconds(tuned.model, sizes[-1], pace.precision)
        return plan_training(pace.with_extra(answer), sizes, len(job.task.train), PLANNED * seconds).to_json()

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
