"""Adapt the chosen model within its share of the time; how is decided on validation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchard import hub
from torchard.core.callback import Callback
from torchard.core.checkpoint import load_into, load_tensors, save_tensors
from torchard.core.data import InputSpec, Task, resolution_note
from torchard.core.features import extract
from torchard.core.run import Stage
from torchard.core.surgery import classifier_name
from torchard.pipeline.fusion import fuse_frozen_
from torchard.pipeline.job import Job, stopwatch
from torchard.pipeline.planning import (
    Plan,
    Precision,
    affordable_sizes,
    largest_size,
    measure_pace,
    plan_training,
)
from torchard.pipeline.training import (
    balance,
    eval_loader,
    evaluate_split,
    measured,
    optimizer,
    scalars,
    train,
)
from torchard.tune import interface, ssf
from torchard.tune.linear_probe import fit_linear_probe, set_classifier_
from torchard.tune.tune_mode import TuneMode, detach, find_pairs

TENSORS = "tuned.safetensors"
WHOLE = "full fine-tuning"
HEAD_SCALE = 0.1  # of the random classifier: small, so that it does not push the layers below about
TRIALS = 0.1  # of the stage's time, for all ways that are tried together
SIZED = 0.9  # of the time that is left after the trials buys the input size; the probe takes the rest
PLANNED = 0.92  # of what is left then is planned for steps, which may cost more than was measured
ALIKE = 1.1  # times the best likelihood loss: more than trials differ by chance
NEAR = 2.0  # standard errors of the best metric; of a difference between two metrics about 1.4
TYPICAL = 128  # pixels at which the first pace is measured: near enough to any size that may be chosen


@dataclass(frozen=True)
class Tuned:
    """The tuned model, what it reads, its fastest precision in training, and the facts in ``tune.json``."""

    model: nn.Module
    name: str
    spec: InputSpec
    precision: Precision
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to adapt a model: what it does to it before, in and after training, and how fast it learns."""

    name: str
    learning_rate: float
    attach: Callable[[nn.Module], object] = lambda model: model
    finish: Callable[[nn.Module], object] = lambda model: model
    callbacks: Callable[[], Sequence[Callback]] = tuple
    fits: Callable[[nn.Module], bool] = lambda model: True
    weight_decay: float = 0.05

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return self.name.lower().replace(" ", "-")


def tune(job: Job, ranking: Mapping[str, Any]) -> Tuned:
    """Return the best-ranked model, tuned; cached in the run folder, resumed if it was interrupted.

    The ways that :func:`ways` names are each tried for the same short time; the best on validation, or the
    quickest of its equals, gets the rest of it, at the largest input that it can train there. A linear probe
    on frozen features costs little and is always fitted, to images of the same size. The result is the better
    of the two.

    Raises:
        DivergedError: if the loss became NaN or infinite.
        InterruptedRunError: after Ctrl-C; the same call goes on where it stopped.
    """
    return load_tuned(job, job.stage("tune", ranking, lambda: _tune(job, ranking), files=[TENSORS]))


def load_tuned(job: Job, facts: Mapping[str, Any]) -> Tuned:
    """Return the tuned model in the run folder, ``facts`` being what stands in ``tune.json``.

    Raises:
        FileRefusedError: if the weights are damaged or do not fit.
    """
    model = hub.load(facts["model"], num_classes=len(job.task.classes), pretrained=False)
    load_into(model, load_tensors(job.run.path / TENSORS)[0])
    spec = InputSpec.from_json(facts["input"])
    return Tuned(model.eval(), facts["model"], spec, facts["plan"]["precision"], facts)


def ways(model: nn.Module) -> tuple[Way, ...]:
    """Return the ways to try on ``model``; the linear probe, which needs no training loop, stands apart."""
    found = (
        Way("SSF", 5e-3, attach=ssf.attach, finish=_merge),
        Way("upper layers", 1e-3, attach=only_upper_, finish=whole_),
        Way(
            "Tune mode",
            1e-3,
            callbacks=lambda: [TuneMode()],
            fits=lambda model: bool(find_pairs(model).pairs),
        ),
        Way(WHOLE, 1e-3),
    )
    return tuple(way for way in found if way.fits(model))


def choice_notes(validations: Mapping[str, Mapping[str, Any]], chosen: str, task: Task) -> list[str]:
    """Return why the best metric did not win, where :func:`choose` took the likelihood's word."""
    best = max(validations, key=lambda name: float(validations[name][task.metric] or 0))
    if validations[best][task.metric] == validations[chosen][task.metric]:
        return []
    score = f"validation {task.metric.replace('_', ' ')} ({float(validations[best][task.metric]):.1%})"
    theirs, ours = (float(validations[name]["nll"]) for name in (best, chosen))
    return [
        f"The {best} has a higher {score}, but by less than two standard errors; "
        f"{chosen} is the likelier (negative log-likelihood {ours:.3f} against {theirs:.3f})."
    ]


def freeze_lower(model: nn.Module) -> None:
    """Freeze all layers up to an eighth of the input's resolution; without such stages, the lower half.

    They see edges and textures, which tasks share, and cost most of the time.
    """
    names = [name for name, _ in model.named_parameters()]
    stages = [stage["module"] for stage in getattr(model, "feature_info", ()) if stage["reduction"] <= 8]
    inside = [index for index, name in enumerate(names) if stages and name.startswith(f"{stages[-1]}.")]
    last = inside[-1] if inside else len(names) // 2
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index > last)


def choose(validations: Mapping[str, Mapping[str, Any]], task: Task) -> str:
    """Return the name with the best validation metric; among those within two standard errors, the likeliest.

    The likelihood tells near-equals apart better than a metric that counts a few hundred images.
    """
    return min(_near(validations, task), key=lambda name: float(validations[name]["nll"]))


def choose_way(trials: Mapping[str, Mapping[str, Any]], task: Task) -> str:
    """Return the way that :func:`choose` would take, or the one of the quickest steps among its equals.

    Trials are too short to tell apart what is within a tenth of the best likelihood as well as two standard
    errors of the best metric; but quicker steps buy larger images, which are worth more than such a lead.
    """
    validations = {name: trial["validation"] for name, trial in trials.items()}
    near = _near(validations, task)
    most = ALIKE * min(float(validations[name]["nll"]) for name in near)
    alike = [name for name in near if float(validations[name]["nll"]) <= most]
    return max(alike, key=lambda name: int(trials[name]["steps"]))


def _near(validations: Mapping[str, Mapping[str, Any]], task: Task) -> list[str]:
    """Names whose metric is within two standard errors of the best one."""
    scores = {name: float(found[task.metric] or 0) for name, found in validations.items()}
    best = max(scores.values())
    error = math.sqrt(best * (1 - best) / len(task.validation))
    return [name for name, score in scores.items() if score >= best - NEAR * error]


def _tune(job: Job, ranking: Mapping[str, Any]) -> dict[str, Any]:
    task, name, seconds = job.task, str(ranking["chosen"]), job.share("tune")
    with stopwatch() as elapsed:
        full = hub.input_spec(name)
        full = full.resized((largest_size(task, full), largest_size(task, full)))
        tried = {way.name: way for way in ways(_fresh(job, name))}
        # What a trial tells is told by its number of steps, and a slow machine has few for larger images.
        small = _sizes(job, name, tried[WHOLE], full, seconds, reason="trials")[:1]
        each = TRIALS * seconds / len(tried)
        trials = {label: _tried(job, name, way, full, small, each) for label, way in tried.items()}
        best = choose_way(trials, task)
        way = tried[best]
        sizes = _sizes(job, name, way, full, SIZED * _left(seconds, elapsed()), reason="training")
        spec = full.resized((sizes[-1], sizes[-1]))
        probe, probe_row = _probed(job, name, spec)
        left = _left(seconds, elapsed())
        plan = _plan(job, name, way, full, sizes, PLANNED * left)
        job.say(f"tune: {name} by {best}, chosen in short trials; {plan}")
        stage = job.run.stage("tune", key=job.key("tune", ranking))
        model, row = _trained(job, name, way, full, plan, stage=stage, seconds=1.15 * left)
    validations = {"linear probe": probe_row["validation"], best: row["validation"]}
    chosen = choose(validations, task)
    save_tensors(job.run.path / TENSORS, (model if chosen == best else probe).state_dict())
    job.say(f"tune: {chosen}, {task.metric} on validation {validations[chosen][task.metric]:.1%}")
    candidates = [
        {"name": "linear probe", **probe_row, "chosen": chosen != best},
        *({"name": f"{name}, trial", **trial, "chosen": False} for name, trial in trials.items()),
        {"name": best, **row, "chosen": chosen == best},
    ]
    return {
        "model": name,
        "architecture": hub.architecture(name),
        "input": spec.to_json(),
        "plan": plan.to_json(),
        "candidates": candidates,
        "chosen": chosen,
        "validation": validations[chosen],
        "notes": [
            *filter(None, [resolution_note(task, spec.size)]),
            *choice_notes(validations, chosen, task),
        ],
    }


def _left(seconds: float, elapsed: float) -> float:
    """What is left of the stage's time; never so little that nothing would be trained."""
    return max(seconds - elapsed, 0.2 * seconds)


def _sizes(job: Job, name: str, way: Way, full: InputSpec, seconds: float, *, reason: str) -> tuple[int, ...]:
    """The input sizes, up to that of ``full``, at which ``seconds`` train; measured once per run."""

    def compute() -> dict[str, Any]:
        model, largest = _fresh(job, name), full.size[0]
        way.attach(model)
        pace = measure_pace(model, min(TYPICAL, largest))
        return {"sizes": affordable_sizes(pace, len(job.task.train), seconds, largest=largest)}

    key = {"run": job.key("tune", {"model": name}), "way": way.name, "input": full.to_json()}
    return tuple(job.run.cached(f"{reason}-sizes", key, compute)["sizes"])


def _plan(
    job: Job,
    name: str,
    way: Way,
    full: InputSpec,
    sizes: Sequence[int],
    seconds: float,
    *,
    kind: str = "plan",
) -> Plan:
    """As many steps as ``seconds`` buy at ``sizes``; measured once, for resumed runs too."""

    def compute() -> dict[str, Any]:
        model = _fresh(job, name)
        way.attach(model)
        pace = measure_pace(model, sizes[-1])
        return plan_training(pace, sizes, len(job.task.train), seconds).to_json()

    key = {"run": job.key("tune", {"model": name}), "input": full.to_json(), "sizes": list(sizes)}
    return Plan.from_json(job.run.cached(f"{kind}-{way.slug}", key, compute))


def _probed(job: Job, name: str, spec: InputSpec) -> tuple[nn.Module, dict[str, Any]]:
    """The pre-trained model with a fitted classifier, and the row it gets among the candidates."""
    task = job.task
    with stopwatch() as elapsed:
        model = hub.load(name, num_classes=len(task.classes))
        features = {
            part: extract(model, eval_loader(split, spec))
            for part, split in (("train", task.train), ("validation", task.validation))
        }
        soft = task.train.soft_targets
        probe = fit_linear_probe(
            features["train"],
            task.train.targets if soft is None else soft,
            features["validation"],
            task.validation.targets,
            num_classes=len(task.classes),
            class_weights=balance(task),
        )
        set_classifier_(model, probe)
        found = measured(probe.logits(features["validation"]), task.validation, task.classes)
        return model, {
            "validation": scalars(found),
            "seconds": elapsed(),
            "trained_params": probe.weight.numel() + probe.bias.numel(),
        }


def _tried(
    job: Job, name: str, way: Way, full: InputSpec, sizes: Sequence[int], seconds: float
) -> dict[str, Any]:
    """The row of a short training; every way gets the same time."""
    plan = _plan(job, name, way, full, sizes, seconds, kind="trial-plan")
    key = {"plan": plan.to_json(), "input": full.to_json(), "data": job.task.fingerprint}

    def compute() -> dict[str, Any]:
        return _trained(job, name, way, full, plan)[1] | {"steps": plan.steps}

    return job.run.cached(f"trial-{way.slug}", key, compute)


def _trained(
    job: Job,
    name: str,
    way: Way,
    full: InputSpec,
    plan: Plan,
    *,
    stage: Stage | None = None,
    seconds: float | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The pre-trained model after training, and its row among the candidates."""
    spec = full.resized((plan.sizes[-1], plan.sizes[-1]))
    with stopwatch() as elapsed:
        model = _fresh(job, name)
        way.attach(model)
        trained_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
        train(
            model,
            job.task,
            spec,
            plan,
            optimizer=optimizer(model, way.learning_rate, way.weight_decay),
            stage=stage,
            callbacks=way.callbacks(),
            seed=job.settings.seed,
            seconds=seconds,
            evaluate=stage is not None,
        )
        way.finish(model)
        validation = evaluate_split(model, job.task, job.task.validation, spec, precision=plan.precision)
        return model, {
            "validation": scalars(validation),
            "seconds": elapsed(),
            "trained_params": trained_params,
        }


def _fresh(job: Job, name: str) -> nn.Module:
    """The pre-trained model with an undecided classifier.

    Not the probe's: fitted to features in eval mode and at full size, its large weights are far off for those
    seen in training, and the first steps, with losses of tens, spoil what was pre-trained.
    """
    model = hub.load(name, num_classes=len(job.task.classes))
    with torch.no_grad():
        for parameter in model.get_submodule(classifier_name(model)).parameters():
            parameter.mul_(HEAD_SCALE)
    return model.requires_grad_(True)


def only_upper_(model: nn.Module) -> None:
    """Leave the upper layers to be trained; frozen norms compute within their convolutions."""
    freeze_lower(model)
    fuse_frozen_(model)


def whole_(model: nn.Module) -> None:
    """Undo :func:`only_upper_`: all layers are trained again, and compute as their classes say."""
    detach(model).requires_grad_(True)


def _merge(model: nn.Module) -> None:
    interface.merge(model)
    interface.detach(model)
