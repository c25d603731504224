"""The training that tuning and recovery share: what a second buys is measured first, then spent to plan."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from torchard.core.average import WeightAverage
from torchard.core.callback import Callback, TrainingRun
from torchard.core.data import Batch, InputSpec, Loader, Split, Task, class_weights, default_augment, metrics
from torchard.core.run import Stage
from torchard.core.surgery import flags_kept, hold_frozen_
from torchard.core.trainer import FitResult, Trainer
from torchard.pipeline.fusion import fuse_
from torchard.pipeline.planning import Plan, Precision, autocast, device_of
from torchard.tune.tune_mode import detach

WARMUP = 0.1
VALIDATIONS = 5  # in a training: what a curve needs; each costs as much as several steps


class GrowingImages(Callback):
    """Feed small images first and the full size last: most steps then cost a fraction of a full one.

    The phases are equally long. The idea is Tan and Le's progressive learning (ICML 2021, arXiv 2104.00298)
    without its growing regularisation.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)

    def on_batch(self, run: TrainingRun, batch: Batch) -> Batch:
        size = self.sizes[min(int(run.fraction * len(self.sizes)), len(self.sizes) - 1)]
        return batch.replace(inputs=resized(batch.inputs, size))


class Distil(Callback):
    """Let the model agree with ``teacher`` on what it sees: the loss becomes a mix of both.

    ``weight`` goes to the cross-entropy against the teacher's softened answers (Hinton et al. 2015, arXiv
    1503.02531), the rest to the loss on the labels. The teacher answers in ``precision``, like the student.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        weight: float = 0.5,
        temperature: float = 2.0,
        precision: Precision = "no",
    ) -> None:
        self.teacher, self.weight, self.temperature = teacher.eval(), weight, temperature
        self.precision: Precision = precision

    def on_fit_start(self, run: TrainingRun) -> None:
        self.teacher.to(device_of(run.model))
        fuse_(self.teacher)

    def on_loss(self, run: TrainingRun, outputs: Tensor, batch: Batch, loss: Tensor) -> Tensor:
        # accelerate's autocast surrounds the student's forward alone.
        with torch.inference_mode(), autocast(batch.inputs.device, self.precision):
            answers = self.teacher(batch.inputs)
        return (1 - self.weight) * loss + self.weight * distillation_loss(outputs, answers, self.temperature)

    def on_fit_end(self, run: TrainingRun) -> None:
        detach(self.teacher).to("cpu")


class Frozen(Callback):
    """Keep layers in eval mode of which nothing is trained, so that their running statistics stay."""

    def on_fit_start(self, run: TrainingRun) -> None:
        hold_frozen_(run.model)


def distillation_loss(
    outputs: Float[Tensor, "n c"], answers: Float[Tensor, "n c"], temperature: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of softened outputs against softened answers, times the temperature squared.

    The factor keeps the gradient's scale, as in Hinton et al. 2015, section 2.
    """
    wanted = (answers.float() / temperature).softmax(dim=1)
    return functional.cross_entropy(outputs.float() / temperature, wanted) * temperature**2


def resized(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c s s"]:
    """Return the images at ``size`` × ``size``, smoothed as Pillow does when it shrinks; in channels last."""
    if images.shape[-2:] == (size, size):
        return images
    small = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def warm_cosine(fraction: float) -> float:
    """Return the learning rate's multiplier: up over the first tenth, then down a half cosine to nothing."""
    rise = min(1.0, fraction / WARMUP + 0.01)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def train(
    model: nn.Module,
    task: Task,
    spec: InputSpec,
    plan: Plan,
    *,
    optimizer: torch.optim.Optimizer,
    stage: Stage | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    seconds: float | None = None,
    evaluate: bool = True,
) -> FitResult:
    """Train ``model`` in place to its averaged weights, and return the history with validation metrics.

    On the device that accelerate chooses; afterwards the model is on the CPU. Validation comes about
    ``VALIDATIONS`` times, after whole epochs and at the end.

    ``seconds`` is a ceiling for a machine that became slower than the plan assumed.

    Raises:
        DivergedError: if the loss became NaN or infinite.
        InterruptedRunError: after Ctrl-C; the same call goes on where it stopped.
    """
    average = WeightAverage(model)
    final = spec.resized((plan.sizes[-1], plan.sizes[-1]))
    batches = loader(task, spec.resized((max(plan.sizes), max(plan.sizes))), plan.batch_size, seed=seed)

    def validate(trained: nn.Module) -> dict[str, Any]:
        if not validated_after(average.steps, plan.steps, each=len(batches)):
            return {}
        with average.swapped(trained):
            return scalars(evaluate_split(trained, task, task.validation, final, precision=plan.precision))

    trainer = Trainer(
        model,
        criterion(task),
        optimizer,
        batches,
        steps=plan.steps,
        seconds=seconds,
        scheduler=warm_cosine,
        callbacks=[GrowingImages(plan.sizes), Frozen(), *callbacks, average],
        evaluate=validate if evaluate else None,
        folder=stage,
        seed=seed,
    )
    result = trainer.fit(precision=plan.precision)
    model.load_state_dict(average.tensors)
    model.to("cpu")
    return result


def validated_after(step: int, steps: int, *, each: int) -> bool:
    """Return whether validation is due after ``step``, which ends an epoch of ``each`` steps.

    It is if the epoch is the first to go past another fifth of all ``steps``, and at their end.
    """
    before = step - (step % each or each)
    return step >= steps or step * VALIDATIONS // steps > before * VALIDATIONS // steps


def loader(task: Task, spec: InputSpec, batch_size: int, *, seed: int = 0) -> Loader:
    """Return the augmented, shuffled training batches, with soft targets where the data has them."""
    return Loader(
        task.train,
        spec,
        batch_size=min(batch_size, len(task.train)),
        shuffle=True,
        seed=seed,
        augment=default_augment(task),
        drop_last=len(task.train) > batch_size,
        soft_targets=task.train.soft_targets is not None,
    )


def eval_loader(split: Split, spec: InputSpec, *, batch_size: int = 64) -> Loader:
    """Return the split's batches in order, as they are."""
    return Loader(split, spec, batch_size=batch_size, shuffle=False)


def optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over what is trained; vectors (norms, biases, SSF) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def criterion(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cross-entropy in which classes weigh as :func:`balance` says."""
    weights = balance(task)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(outputs.device)
        return functional.cross_entropy(outputs, targets, weight=weight)

    return loss


def balance(task: Task) -> Float[Tensor, " c"] | None:
    """Return class weights that fit the metric: all classes count the same unless plain accuracy decides."""
    if task.metric not in ("balanced_accuracy", "macro_f1"):
        return None
    return class_weights(task.train.targets, len(task.classes))


@torch.inference_mode()
def predict_split(
    model: nn.Module, split: Split, spec: InputSpec, *, precision: Precision = "no"
) -> Float[Tensor, "n c"]:
    """Return the model's logits on a split, in eval mode and in order, on the CPU."""
    device = device_of(model)
    with flags_kept(model), autocast(device, precision):
        model.eval()
        batches = eval_loader(split, spec)
        return torch.cat([model(batch.inputs.to(device)).float().cpu() for batch in batches])


def evaluate_split(
    model: nn.Module, task: Task, split: Split, spec: InputSpec, *, precision: Precision = "no"
) -> dict[str, Any]:
    """Return all metrics of the model on a split, with the mean negative log-likelihood as ``nll``."""
    return measured(predict_split(model, split, spec, precision=precision), split, task.classes)


def measured(logits: Float[Tensor, "n c"], split: Split, classes: Sequence[str]) -> dict[str, Any]:
    """Return all metrics of the answers to a split, with the mean negative log-likelihood as ``nll``."""
    found = metrics(logits, split.targets, classes=classes, groups=split.groups)
    return found | {"nll": functional.cross_entropy(logits, split.targets).item()}


def scalars(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the metrics: what fits one line of a log."""
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
