"""How much each head, value dimension and MLP unit matters, and what the cheapest of them sum to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchard.prune.uvc.structure import BlockParts, ViTSpec


def bottom_k_sum(scores: Float[Tensor, "*b n"], k: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return the sum of the ``ceil(k)`` smallest scores, of each row.

    The gradient to ``k`` is the marginal cost, the next smallest score (the largest, when all are summed
    already); the gradient to ``scores`` is 1 for those that were summed. ``[.4, .1, .3]`` and 1.2 give 0.4,
    and 0.4 for the gradient.
    """
    return _BottomKSum.apply(scores, k)


@torch.no_grad()
def prox_(weight: Float[Tensor, "o i"], cols: Int[Tensor, " k"], lr: float | int, dual: float | int) -> None:
    """Shrink columns ``cols`` by 1 / (1 + 2·lr·dual): the proximal step on ``dual`` times their squares."""
    weight[:, cols] /= 1 + 2 * lr * dual


@dataclass(frozen=True, eq=False)
class Scores:
    """Squared norms of the output columns: of value dimensions (block, head, dimension) and MLP units."""

    dims: Float[Tensor, "l h d"]
    units: Float[Tensor, "l m"]

    @property
    def heads(self) -> Float[Tensor, "l h"]:
        """Those of whole heads."""
        return self.dims.sum(dim=2)

    @property
    def total(self) -> float:
        """The sum of all."""
        return (self.dims.sum() + self.units.sum()).item()

    def surviving(self, removed_heads: Float[Tensor, " l"]) -> Bool[Tensor, "l h"]:
        """Return which heads are not among the ``ceil(removed_heads)`` cheapest of their block."""
        return ranks(self.heads) >= removed_heads.ceil()[:, None]

    def sums(
        self, s: Float[Tensor, "l 2"], r: Float[Tensor, "l _"]
    ) -> tuple[Float[Tensor, "l 2"], Float[Tensor, "l _"]]:
        """Return S and T: what is left in all that ``s`` and ``r`` say should be nothing.

        With one column of ``r`` each head loses its own cheapest dimensions; the scores are averaged over
        heads, place by place in their order.
        """
        heads = bottom_k_sum(self.heads, s[:, 0].contiguous())
        units = bottom_k_sum(self.units, s[:, 1].contiguous())
        tied = r.shape[1] == 1 and self.dims.shape[1] != 1
        dims = self.dims.sort(dim=2).values.mean(dim=1, keepdim=True) if tied else self.dims
        return torch.stack([heads, units], dim=1), bottom_k_sum(dims, r)


@torch.no_grad()
def measure_scores(parts: Sequence[BlockParts], spec: ViTSpec) -> Scores:
    """Return the present scores, on the CPU in float64: one pass over the output weights of all blocks."""
    dims = [block.proj.weight.double().square().sum(0).view(spec.heads, spec.head_width) for block in parts]
    units = [block.fc2.weight.double().square().sum(0) for block in parts]
    return Scores(torch.stack(dims).cpu(), torch.stack(units).cpu())


def ranks(scores: Float[Tensor, "*b n"]) -> Int[Tensor, "*b n"]:
    """Return the place of each score in ascending order; of equal ones the first comes first."""
    return scores.sort(dim=-1, stable=True).indices.argsort(dim=-1)


class _BottomKSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor) -> Tensor:
        count = k.detach().ceil().long().clamp(0, scores.shape[-1])
        ordered = scores.detach().sort(dim=-1, stable=True).values
        summed = torch.arange(scores.shape[-1], device=scores.device) < count[..., None]
        marginal = ordered.gather(-1, count.clamp(max=scores.shape[-1] - 1)[..., None])[..., 0]
        ctx.save_for_backward(marginal, ranks(scores.detach()) < count[..., None])
        ctx.dtype = k.dtype
        return (ordered * summed).sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        marginal, chosen = ctx.saved_tensors
        return upstream[0][..., None] * chosen, (upstream[0] * marginal).to(ctx.dtype)
