"""The search: train a transformer while learning what it can do without (UVC)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.callback import Callback, TrainingRun
from torchard.core.data.batch import Batch
from torchard.core.errors import DivergedError, UsageError
from torchard.prune.uvc.cost import Accounting
from torchard.prune.uvc.decision import Counts, UVCDecision
from torchard.prune.uvc.distillation import FROM_ITSELF, Distillation, Distilled
from torchard.prune.uvc.gates import Attachment, GateKind, Gates, attach
from torchard.prune.uvc.primal_dual import KINDS, Kind, Rates, Variables
from torchard.prune.uvc.projection import floor_macs, project
from torchard.prune.uvc.scores import Scores, measure_scores, prox_, ranks
from torchard.prune.uvc.structure import Adapter, ViTSpec, check_value_widths, parts_of

SETTLED = 1e-6  # of all scores: what may be left in units that are to go


@dataclass(frozen=True)
class Search:
    """What may go and how it is looked for.

    ``prune`` names what may be removed. In the first ``warmup_epochs`` every block counts half and only
    weights are trained. ``rates=None`` are the paper's in :class:`UVC`, and fitted to the number of steps in
    :func:`compress`. ``ragged`` lets each head of a block have a value width of its own.
    """

    prune: tuple[Kind, ...] = KINDS
    warmup_epochs: int = 5
    rates: Rates | None = None
    gate: GateKind = "gumbel"
    ragged: bool = False
    accounting: Accounting = "exact"
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.prune) - set(KINDS))
        if unknown or not self.prune:
            raise ValueError(f"`prune={self.prune}` must name some of {', '.join(KINDS)}.")
        if self.warmup_epochs < 0:
            raise ValueError(f"`warmup_epochs={self.warmup_epochs}` must not be negative.")
        if self.accounting not in ("exact", "official"):
            raise ValueError(f"`accounting={self.accounting!r}` must be 'exact' or 'official'.")


DEFAULT_SEARCH = Search()


class UVC(Callback):
    """Learn which heads, value dimensions, MLP units and blocks go, while the weights are trained.

    Yu et al. 2022. After each optimizer step: shrink what is to go, move the numbers of what is to go and the
    gates of the blocks against the prices of keeping and losing, then the prices. Costs two passes over the
    output weights a step, and a forward pass of the teacher. In a loop of your own::

        uvc = UVC(model, budget=0.5)
        uvc.attach()
        for epoch in range(epochs):
            uvc.begin_epoch(epoch, fraction=epoch / epochs)
            for images, labels in loader:
                loss = uvc.loss(images, model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                uvc.step(optimizer)
        small = export(model, uvc.decision())  # train it on

    Raises:
        ValueError: if ``budget``, a share of the MACs, is not in (0, 1] or below what must be left; if the
            teacher has other classes.
        UnsupportedModel: naming the module that cannot be cut.
    """

    def __init__(
        self,
        model: nn.Module,
        budget: float | int = 0.5,
        *,
        example: Tensor | None = None,
        search: Search = DEFAULT_SEARCH,
        distillation: Distillation = FROM_ITSELF,
        seed: int = 0,
    ) -> None:
        self.model, self.budget, self.search = model, float(budget), search
        self.rates = search.rates or Rates()
        self.parts = parts_of(model, search.adapter)
        self.spec = ViTSpec.from_model(model, example, adapter=search.adapter)
        _check_budget(self.budget, self.spec, search)
        if "dims" in search.prune:
            check_value_widths(self.parts)
        self.distilled = Distilled(model, distillation, example=example)
        # At budget 1 nothing is to go: a price above zero would still take the first unit.
        self.variables = Variables(self.spec, search.prune, ragged=search.ragged, priced=self.budget < 1)
        learnt = "blocks" in search.prune and self.budget < 1 and self.spec.depth > 1
        self.gates = Gates(self.spec.depth, search.gate, learnt=learnt, seed=seed)
        self.attachment: Attachment | None = None
        self.settled: bool | None = None
        self.epoch, self.fraction, self.warm_fraction = -1, 0.0, 0.0
        self.gate_sum, self.gate_count = torch.zeros(self.spec.depth, 2), 0

    def attach(self) -> None:
        """Put the gates to work in the model; they stay outside its parameters."""
        self.detach()
        self.attachment = attach(self.model, self.gates, [block.name for block in self.parts])

    def detach(self) -> None:
        """Take the gates out of the model."""
        if self.attachment is not None:
            self.attachment.remove()
        self.attachment = None

    def begin_epoch(self, epoch: int, *, fraction: float | int) -> None:
        """Say that ``epoch`` begins (from 0), ``fraction`` of the search being done."""
        self.epoch, self.fraction, self.settled = epoch, float(fraction), None
        if epoch <= self.search.warmup_epochs:
            self.warm_fraction = self.fraction
        self.gates.epoch = max(0, epoch - self.search.warmup_epochs)
        self.gates.warm = self.warming

    @property
    def warming(self) -> bool:
        """Whether only the weights are trained as yet."""
        return self.epoch < self.search.warmup_epochs

    def loss(
        self, inputs: Float[Tensor, "n ..."], outputs: Float[Tensor, "n c"], targets: Tensor
    ) -> Float[Tensor, ""]:
        """Return cross-entropy with ``targets`` (class numbers or probabilities), mixed with the teacher's.

        Raises:
            DivergedError: if it is NaN or infinite.
        """
        loss = self.distilled.mixed(inputs, outputs, F.cross_entropy(outputs, targets))
        if not math.isfinite(loss.item()):
            raise DivergedError(f"The loss became {loss.item()}; nothing was updated. Try a lower rate.")
        return loss

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do what follows each step of the weights' ``optimizer``, whose learning rates are used.

        Raises:
            RuntimeError: if no backward pass has gone through the model since the last call.
            DivergedError: if a weight or gradient is NaN or infinite; the variables are as before.
        """
        if self.epoch < 0 or self.attachment is None:
            raise RuntimeError("Call `attach()` and `begin_epoch(...)` before the first `step`.")
        if not self.gates.backpropagated:
            raise RuntimeError("Call `loss.backward()` before each `step`: no gradient has come through yet.")
        self.gates.backpropagated = False
        gradient, self.gates.logits.grad = self.gates.logits.grad, None
        if self.warming:
            return
        by_loss = (
            torch.zeros_like(self.gate_sum)
            if gradient is None
            else _mean_over_processes(gradient, self.model)
        )
        scores = measure_scores(self.parts, self.spec)
        if not (math.isfinite(scores.total) and bool(by_loss.isfinite().all())):
            raise DivergedError("Weights or gradients became NaN or infinite; the search stands as it was.")
        self._shrink(scores, _learning_rates(optimizer))
        self._move(measure_scores(self.parts, self.spec), by_loss)

    def resource(self) -> float:
        """Return R of the present state: the share of MACs left by what :meth:`counts` says."""
        return self._resource(measure_scores(self.parts, self.spec))

    def counts(self) -> Counts:
        """Return how many of everything go at present, before any projection."""
        return Counts.of(self.variables.s, self.variables.r, self.gates.hard(), self.spec.heads)

    def decision(self, *, projected: bool = True) -> UVCDecision:
        """Return what goes: brought under the budget, and given back where it has room, if ``projected``.

        Raises:
            ValueError: if no decision meets the budget.
        """
        scores, counts = measure_scores(self.parts, self.spec), self.counts()
        if projected:
            target = self.budget * self.spec.macs
            kinds, ragged = self.search.prune, self.search.ragged
            counts = project(counts, scores, self.spec, target, kinds=kinds, ragged=ragged)
        return counts.decision(scores, ragged=self.search.ragged)

    def on_fit_start(self, run: TrainingRun) -> None:
        """Put the gates to work.

        Raises:
            UsageError: if another model is trained.
        """
        if run.model is not self.model:
            raise UsageError("UVC was made for another model than the one that is trained.")
        self.attach()

    def on_epoch_start(self, run: TrainingRun) -> None:
        """Stop once an epoch has passed with everything within bounds."""
        if self.settled:
            run.stop("settled")
        self.begin_epoch(run.epoch, fraction=run.fraction)

    def on_loss(self, run: TrainingRun, outputs: Any, batch: Batch, loss: Tensor) -> Tensor:
        """Mix in the teacher."""
        return self.distilled.on_loss(run, outputs, batch, loss)

    def on_step_end(self, run: TrainingRun) -> None:
        """Take the primal and dual steps."""
        self.fraction = run.fraction
        self.step(run.optimizer)

    def on_evaluated(self, run: TrainingRun, metrics: dict[str, Any]) -> None:
        """Log what is left."""
        left = {name: kept for name, (kept, _) in self.decision(projected=False).summary(self.spec).items()}
        run.log(step=run.step, resource=self.resource(), price=self.variables.z, **left)

    def on_fit_end(self, run: TrainingRun) -> None:
        """Take the gates out."""
        self.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return variables, prices, gates with their generator, and how far the search is."""
        return {
            "variables": self.variables.state_dict(),
            "gates": self.gates.state_dict(),
            "gate_sum": self.gate_sum.clone(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.variables.load_state_dict(state["variables"])
        self.gates.load_state_dict(state["gates"])
        self.gate_sum = state["gate_sum"].clone()
        for name in _PLAIN:
            setattr(self, name, state[name])

    def _resource(self, scores: Scores) -> float:
        keep = self.gates.hard().float()
        return self.variables.resource(scores, keep, self.search.accounting).item()

    def _shrink(self, scores: Scores, learning_rates: Mapping[int, float]) -> None:
        variables = self.variables
        removed, narrowed = variables.s.ceil(), variables.r.ceil()
        heads = ranks(scores.heads) < removed[:, :1]
        units = ranks(scores.units) < removed[:, 1:]
        dims = ranks(scores.dims) < narrowed[:, :, None]
        for number, block in enumerate(self.parts):
            weight, lr = block.proj.weight, learning_rates.get(id(block.proj.weight), 0.0)
            for head in range(self.spec.heads):
                price = variables.p[number, head if variables.ragged else 0].item()
                columns = head * self.spec.head_width + dims[number, head].nonzero()[:, 0]
                prox_(weight, columns.to(weight.device), lr, price)
            columns = heads[number].repeat_interleave(self.spec.head_width).nonzero()[:, 0]
            prox_(weight, columns.to(weight.device), lr, variables.y[number, 0].item())
            weight, lr = block.fc2.weight, learning_rates.get(id(block.fc2.weight), 0.0)
            prox_(weight, units[number].nonzero()[:, 0].to(weight.device), lr, variables.y[number, 1].item())

    def _move(self, scores: Scores, by_loss: Tensor) -> None:
        variables, gates, accounting, rates = self.variables, self.gates, self.search.accounting, self.rates
        keep = gates.soft()
        used = variables.resource(scores, keep, accounting)
        by_s, by_r = variables.primal_gradients(scores, keep, accounting)
        if gates.learnt:
            (by_resource,) = torch.autograd.grad(used, [gates.logits])
            self.gate_sum += by_loss + variables.z * rates.gate_weight * by_resource
            self.gate_count += 1
        variables.primal_step(by_s, by_r, rates)
        if self.gate_count == rates.gate_interval:
            gates.update(self.gate_sum / self.gate_count, lr=rates.gate)
            self.gate_sum, self.gate_count = torch.zeros_like(self.gate_sum), 0
        searched = (self.fraction - self.warm_fraction) / max(1 - self.warm_fraction, 1e-9)
        now = variables.resource(scores, keep.detach(), accounting).item()
        variables.dual_step(scores, now, self.budget, rates, progress=max(0.0, searched))
        within = self._resource(scores) <= self.budget and variables.violation(scores) < SETTLED
        self.settled = within and self.settled is not False


_PLAIN = ("settled", "epoch", "fraction", "warm_fraction", "gate_count")


def _check_budget(budget: float, spec: ViTSpec, search: Search) -> None:
    if not 0 < budget <= 1:
        raise ValueError(f"`budget={budget}` must be a share of the MACs, above 0 and at most 1.")
    floor = floor_macs(spec, search.prune) / spec.macs
    if budget < floor:
        raise ValueError(
            f"`budget={budget}` is below {floor:.3f}, which is left when all that `prune` names is removed "
            "but one of each: the stem, the classifier, one head and one unit."
        )


def _learning_rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    return {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}


def _mean_over_processes(gradient: Tensor, model: nn.Module) -> Tensor:
    """The gates are outside what DDP wraps: their gradients are averaged here."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return gradient
    device = next(model.parameters()).device
    total = gradient.to(device)
    torch.distributed.all_reduce(total)
    return (total / torch.distributed.get_world_size()).cpu()
