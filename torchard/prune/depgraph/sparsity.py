"""Train units towards zero group by group, so that pruning them later costs little."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchard.core.callback import Callback, TrainingRun
from torchard.prune.depgraph.graph import DimGraph, Group, Member
from torchard.prune.depgraph.tracer import Examples, trace

Kind = Literal["group", "bn", "growing"]


@torch.no_grad()
def group_sparsity_(graph: DimGraph, reg: float = 5e-4, alpha: float = 4.0) -> None:
    """Add the gradient of the group regulariser to every ``.grad`` that is there; call it after ``backward``.

    Fang et al. 2023, sec. 3.3: each weight w of unit k gets λ·γ_k·w, γ_k between 1 for the most and 2^α for
    the least important unit of its group. Biases are left out, depthwise kernels and norm weights are not.
    Use no weight decay meanwhile. Costs about one pass over the parameters.
    """
    for penalised in penalised_groups(graph):
        penalised.shrink_(reg * shrinkage(penalised.importance(), alpha))


def shrinkage(importance: Float[Tensor, " n"], alpha: float = 4.0) -> Float[Tensor, " n"]:
    """Return γ: 2^α for the least important unit, 1 for the most; all 1 where units are equal.

    Importances 1, 2, 3 give 16, 4, 1.
    """
    low, high = importance.min(), importance.max()
    if high == low:
        return torch.ones_like(importance)
    return torch.exp2(alpha * (high - importance) / (high - low))


@dataclass(frozen=True, eq=False)
class Penalised:
    """The members of one group that the regulariser shrinks, with the unit of each position."""

    group: Group
    members: tuple[tuple[Member, Int[Tensor, " p"], Int[Tensor, " p"]], ...]

    def importance(self) -> Float[Tensor, " n"]:
        """Root of the mean over members of the squares that belong to each unit."""
        total = torch.zeros(self.group.size)
        for member, positions, units in self.members:
            weight = member.tensor.detach().float()
            rows = (
                weight.square().movedim(member.dim, 0).flatten(1).sum(1)
                if weight.dim() > 1
                else weight.square()
            )
            total = total.to(rows.device).index_add(0, units.to(rows.device), rows[positions] / member.copies)
        return (total / len(self.members)).sqrt()

    def shrink_(self, strength: Float[Tensor, " n"]) -> None:
        """Add strength · w to the gradient of each weight."""
        for member, positions, units in self.members:
            if member.tensor.grad is not None:
                per_position = torch.zeros(member.tensor.shape[member.dim], device=member.tensor.device)
                per_position.index_add_(
                    0, positions.to(per_position.device), strength.to(per_position.device)[units]
                )
                shape = [-1 if dim == member.dim else 1 for dim in range(member.tensor.dim())]
                member.tensor.grad += (per_position.view(shape) * member.tensor).to(member.tensor.grad.dtype)


def penalised_groups(graph: DimGraph, ignore: Iterable[str | nn.Module] = ()) -> list[Penalised]:
    """Return the prunable groups with what the regulariser acts on."""
    found = []
    for group in graph.groups(ignore):
        shrunk = [member for member in group.members if member.role not in ("buffer", "bias")]
        if shrunk:
            found.append(Penalised(group, tuple((member, *_columns(member)) for member in shrunk)))
    return found


def _columns(member: Member) -> tuple[Tensor, Tensor]:
    positions, units = member.places
    return torch.tensor(positions), torch.tensor(units)


class GroupSparsity(Callback):
    """Apply :func:`group_sparsity_` (or a sibling) before every optimiser step.

    ``kind="bn"`` adds λ·sign(γ) to normalisation weights instead (Liu et al. 2017); ``"growing"`` gives each
    unit a strength of its own, which grows every epoch by ``growth`` times how unimportant the unit is
    (Wang et al. 2021). The optimiser's weight decay should be zero.
    """

    def __init__(
        self,
        example_inputs: Examples,
        *,
        reg: float = 5e-4,
        alpha: float = 4.0,
        kind: Kind = "group",
        growth: float = 1e-4,
        ignore: Iterable[str | nn.Module] = (),
    ) -> None:
        if kind not in ("group", "bn", "growing"):
            raise ValueError(f"`kind={kind!r}` must be 'group', 'bn' or 'growing'")
        self.example_inputs, self.ignore = example_inputs, ignore
        self.reg, self.alpha, self.kind, self.growth = reg, alpha, kind, growth
        self.groups: list[Penalised] = []
        self.strengths: dict[str, Tensor] = {}

    def on_fit_start(self, run: TrainingRun) -> None:
        """Trace the model."""
        self.groups = penalised_groups(trace(run.model, self.example_inputs), self.ignore)

    def on_epoch_start(self, run: TrainingRun) -> None:
        """Let the strengths of unimportant units grow."""
        for penalised in self.groups if self.kind == "growing" else ():
            grown = self.growth * (shrinkage(penalised.importance(), 1.0) - 1)
            self.strengths[penalised.group.id] = self._strength(penalised).to(grown.device) + grown

    @torch.no_grad()
    def on_gradients(self, run: TrainingRun) -> None:
        """Add the regulariser's gradient."""
        for penalised in self.groups:
            if self.kind == "group":
                penalised.shrink_(self.reg * shrinkage(penalised.importance(), self.alpha))
            elif self.kind == "growing":
                penalised.shrink_(self._strength(penalised))
            else:
                slim_(penalised.group, self.reg)

    def state_dict(self) -> dict[str, Any]:
        """Return the strengths of growing regularisation."""
        return {"strengths": dict(self.strengths)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved strengths."""
        self.strengths = dict(state["strengths"])

    def _strength(self, penalised: Penalised) -> Tensor:
        return self.strengths.get(penalised.group.id, torch.full((penalised.group.size,), self.reg))


@torch.no_grad()
def slim_(group: Group, reg: float) -> None:
    """Add the gradient of λ·|γ| to the normalisation weights of a group."""
    for member in group.members:
        if member.role == "norm" and member.tensor.grad is not None:
            member.tensor.grad += reg * member.tensor.sign()
