"""Both stages in one call: search, then export and train on, within a budget that the result meets."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchard.core.budget import count_macs
from torchard.core.callback import Callback, TrainingRun
from torchard.core.data.batch import Batch
from torchard.core.stream import BatchStream
from torchard.core.trainer import FitResult, Trainer
from torchard.prune.uvc.callback import DEFAULT_SEARCH, UVC, Search
from torchard.prune.uvc.cutting import export
from torchard.prune.uvc.decision import UVCDecision
from torchard.prune.uvc.distillation import FROM_ITSELF, Distillation, Distilled
from torchard.prune.uvc.primal_dual import Rates
from torchard.prune.uvc.store import save_compressed
from torchard.prune.uvc.structure import ViTSpec, example_for

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A smaller model, what was decided, and how training went; ``macs`` is before and after, as counted."""

    model: nn.Module
    decision: UVCDecision
    history: dict[str, list[dict[str, Any]]]
    spec: ViTSpec
    macs: tuple[int, int]

    def __str__(self) -> str:
        lines = [
            f"{name}: {left} of {all_}" for name, (left, all_) in self.decision.summary(self.spec).items()
        ]
        return "\n".join([*lines, f"{100 * self.macs[1] / self.macs[0]:.1f} % of the MACs, as counted"])

    def save(self, path: Path) -> None:
        """Write model and decision to one file, for :func:`load_compressed`."""
        save_compressed(self.model, self.decision, path)


def compress(
    model: nn.Module,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any] | None = None,
    budget: float | int = 0.5,
    *,
    epochs: tuple[int, int] = (30, 120),
    example: Tensor | None = None,
    search: Search = DEFAULT_SEARCH,
    distillation: Distillation = FROM_ITSELF,
    learning_rate: float = 1e-4,
    mix: Mix | None = None,
    folder: Path | None = None,
    seed: int = 0,
) -> CompressedModel:
    """Train ``model``, in place, while learning what can go; cut it, and train what is left.

    Yu et al. 2022: AdamW, a cosine, gradients of norm 1 at most, the model as it was for a teacher. What
    comes back costs at most ``budget`` of the MACs by :func:`~torchard.core.budget.count_macs`: what the
    search left over it is removed, cheapest first. The search ends early once its constraints have held for
    an epoch.

    ``mix`` changes a batch and its targets, such as timm's ``Mixup`` (0.8, with CutMix 1.0 and smoothing 0.1
    in the paper). With a ``folder`` the same call goes on after a kill.

    Raises:
        ValueError: as :class:`UVC`; or if the warm-up is as long as the search.
        UnsupportedModel: naming the module that cannot be cut.
    """
    if epochs[0] <= search.warmup_epochs:
        raise ValueError(
            f"`epochs={epochs}`: nothing is searched in {search.warmup_epochs} epochs of warm-up."
        )
    example = example_for(model) if example is None else example[:1]
    teacher = Distilled(model, distillation, example=example)
    if search.rates is None:
        steps = len(BatchStream(train_loader)) * (epochs[0] - search.warmup_epochs)
        search = replace(search, rates=Rates.over(steps))
    settings = replace(distillation, teacher=teacher.teacher)
    uvc = UVC(model, budget, example=example, search=search, distillation=settings, seed=seed)

    def train(subject: nn.Module, count: int, callback: Callback, stage: str) -> FitResult:
        return Trainer(
            subject,
            F.cross_entropy,
            torch.optim.AdamW(subject.parameters(), lr=learning_rate),
            train_loader,
            epochs=count,
            scheduler=lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
            callbacks=[_Mixed(mix), callback, _Clipped()],
            evaluate=None if val_loader is None else lambda model: {"accuracy": accuracy(model, val_loader)},
            folder=None if folder is None else Path(folder) / stage,
            seed=seed,
        ).fit()

    searched = train(model, epochs[0], uvc, "search")
    small, decision, macs = export_within(uvc, example)
    history = {"search": searched.history, "post": []}
    if epochs[1]:
        history["post"] = train(small, epochs[1], teacher, "post").history
    return CompressedModel(small.eval(), decision, history, uvc.spec, macs)


def export_within(uvc: UVC, example: Tensor) -> tuple[nn.Module, UVCDecision, tuple[int, int]]:
    """Return the exported model, its decision, and the MACs counted before and after.

    Raises:
        RuntimeError: if what was exported costs more than was reckoned, which would be an error of ours.
    """
    decision = uvc.decision()
    small = export(uvc.model, decision, example=example, adapter=uvc.search.adapter)
    before, after = count_macs(uvc.model, example), count_macs(small, example)
    if after > uvc.budget * before:
        raise RuntimeError(f"The exported model costs {after} of {before} MACs, above {uvc.budget} of them.")
    return small, decision, (before, after)


@torch.no_grad()
def accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    """Return the share of samples whose class ``model`` names, in the mode it is in."""
    right = total = 0
    device = next(model.parameters()).device
    for batch in loader:
        inputs, targets = (batch.inputs, batch.targets) if isinstance(batch, Batch) else batch[:2]
        found = model(inputs.to(device)).argmax(dim=1).cpu()
        right, total = right + int((found == targets.cpu()).sum()), total + len(found)
    return right / total


class _Clipped(Callback):
    """Gradients of norm 1 at most."""

    def on_gradients(self, run: TrainingRun) -> None:
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)


class _Mixed(Callback):
    """Batches changed by a function of inputs and targets."""

    def __init__(self, mix: Mix | None) -> None:
        self.mix = mix

    def on_batch(self, run: TrainingRun, batch: Batch) -> Batch:
        if self.mix is None:
            return batch
        inputs, targets = self.mix(batch.inputs, batch.targets)
        return batch.replace(inputs=inputs, targets=targets)
