"""Learn from the model as it was before."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.callback import Callback, TrainingRun
from torchard.core.data.batch import Batch

Reduction = Literal["batchmean", "numel"]


def distillation_loss(
    outputs: Float[Tensor, "n c"],
    answers: Float[Tensor, "n c"],
    *,
    temperature: float | int = 1.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, ""]:
    """Return T²·KL(teacher ‖ student) of softened outputs: per sample, or with ``"numel"`` per output.

    Yu et al. 2022 divide by samples times classes, which makes the term weaker the more classes there are.
    """
    student = (outputs.float() / temperature).log_softmax(dim=1)
    teacher = (answers.detach().float() / temperature).log_softmax(dim=1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return temperature**2 * total / (len(outputs) if reduction == "batchmean" else outputs.numel())


@dataclass(frozen=True, eq=False)
class Distillation:
    """Who teaches and how much: loss = (1 − alpha)·loss + alpha·:func:`distillation_loss`.

    ``teacher="self"`` is a copy of the model before compression, None nobody.
    """

    teacher: nn.Module | Literal["self"] | None = "self"
    alpha: float = 0.1
    temperature: float = 1.0
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"`alpha={self.alpha}` must lie between 0 and 1.")
        if not self.temperature > 0:
            raise ValueError(f"`temperature={self.temperature}` must be positive.")
        if self.reduction not in ("batchmean", "numel"):
            raise ValueError(f"`reduction={self.reduction!r}` must be 'batchmean' or 'numel'.")


FROM_ITSELF = Distillation()


class Distilled(Callback):
    """Mix the teacher's answers into the loss.

    The teacher of ``"self"`` is copied from ``model`` at once. It is put in eval mode, and stays there.

    Raises:
        ValueError: if teacher and model answer ``example`` with other numbers of classes.
    """

    def __init__(
        self, model: nn.Module, settings: Distillation = FROM_ITSELF, *, example: Tensor | None = None
    ) -> None:
        self.settings = settings
        teacher = copy.deepcopy(model) if settings.teacher == "self" else settings.teacher
        self.teacher = teacher if isinstance(teacher, nn.Module) and settings.alpha > 0 else None
        if self.teacher is not None:
            self.teacher.eval()
            if example is not None and settings.teacher != "self":
                _check_classes(model, self.teacher, example)

    def mixed(self, inputs: Tensor, outputs: Tensor, loss: Tensor) -> Tensor:
        """Return the loss with the teacher's part."""
        if self.teacher is None:
            return loss
        alpha, settings = self.settings.alpha, self.settings
        if next(self.teacher.parameters(), outputs).device != outputs.device:
            self.teacher.to(outputs.device)
        with torch.no_grad():
            answers = self.teacher(inputs)
        kl = distillation_loss(
            outputs, answers, temperature=settings.temperature, reduction=settings.reduction
        )
        return (1 - alpha) * loss + alpha * kl

    def on_loss(self, run: TrainingRun, outputs: Any, batch: Batch, loss: Tensor) -> Tensor:
        """Mix it in."""
        return self.mixed(batch.inputs, outputs, loss)


def _check_classes(model: nn.Module, teacher: nn.Module, example: Tensor) -> None:
    training = model.training
    with torch.no_grad():
        here, there = model.eval()(example).shape[-1], teacher(example).shape[-1]
    model.train(training)
    if here != there:
        raise ValueError(f"`teacher` tells {there} classes apart, the model {here}: they must agree.")
