"""The variables of the search: how much to remove, and the prices of not having done so."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchard.prune.uvc.cost import Accounting, resource
from torchard.prune.uvc.scores import Scores
from torchard.prune.uvc.structure import ViTSpec

Kind = Literal["heads", "dims", "mlp", "blocks"]
PAPER_STEPS = 75_000  # 30 epochs of ImageNet in batches of 512
KINDS: tuple[Kind, ...] = ("heads", "dims", "mlp", "blocks")


@dataclass(frozen=True)
class Rates:
    """Step sizes of everything but the weights; the defaults are the paper's, for some 75,000 steps.

    ``units`` is apart from ``heads``, since there are hundreds of times as many. ``z`` are the rates of the
    budget's price in equal parts of the search; ``gate_interval`` steps are averaged for one of the gates,
    into which the resource goes with ``gate_weight``. With ``relative`` heads, units and dimensions are
    counted in shares of what a block has of them, for their steps and gradients.
    """

    heads: float = 0.02
    units: float = 0.02
    dims: float = 0.02
    gate: float = 0.1
    gate_weight: float = 5e-4
    gate_interval: int = 50
    dual: float = 1e-4
    z: tuple[float, ...] = (1.0, 5.0, 9.0, 13.0, 17.0)
    relative: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "units", "dims", "gate", "gate_weight", "dual"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}={getattr(self, name)}` must not be negative.")
        if self.gate_interval < 1 or not self.z or not min(self.z) >= 0:
            raise ValueError(f"`gate_interval={self.gate_interval}` and `z={self.z}` must be positive.")

    @classmethod
    def over(cls, steps: int) -> "Rates":
        """Return rates for a search of so many steps, far fewer than the paper's.

        Everything moves in shares of its range, so that heads, dimensions and units give way at one pace,
        and can cross it in a tenth of the steps. The budget's price goes into the tens, the paper's into the
        thousands; the gates feel it 100 times as much. Found by trial on small images: a search of 250 steps
        comes down to half the operations by itself.
        """
        pace = PAPER_STEPS / max(steps, 1)
        interval = max(1, round(cls.gate_interval / pace))
        speed = min(0.05, 10 / max(steps, 1))
        return cls(
            heads=speed,
            units=speed,
            dims=speed,
            gate_weight=0.05,
            gate_interval=interval,
            dual=cls.dual * pace,
            z=tuple(rate * 100 / max(steps, 1) for rate in cls.z),
            relative=True,
        )


class Variables:
    """s, r (primal) and y, p, z (dual, never negative), on the CPU, and their steps."""

    def __init__(self, spec: ViTSpec, kinds: Collection[str], *, ragged: bool, priced: bool = True) -> None:
        columns = spec.heads if ragged else 1
        price = 1e-3 if priced else 0.0
        self.spec, self.kinds, self.ragged = spec, frozenset(kinds), ragged
        self.s, self.r = torch.zeros(spec.depth, 2), torch.zeros(spec.depth, columns)
        self.y, self.p = torch.full((spec.depth, 2), price), torch.full((spec.depth, columns), price)
        self.z = price

    def resource(
        self,
        scores: Scores,
        keep: Float[Tensor, " l"],
        accounting: Accounting,
        *,
        s: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Return R, of ``s`` and ``r`` in place of the variables if given."""
        s, r = self.s if s is None else s, self.r if r is None else r
        surviving = scores.surviving(s.detach()[:, 0])
        return resource(s, r, keep, self.spec, accounting, surviving=surviving)

    def primal_gradients(
        self, scores: Scores, keep: Float[Tensor, " l"], accounting: Accounting
    ) -> tuple[Float[Tensor, "l 2"], Float[Tensor, "l _"]]:
        """Return the gradients of Σ y·S + Σ p·T + z·R to s and r: marginal costs and priced savings."""
        s, r = self.s.clone().requires_grad_(), self.r.clone().requires_grad_()
        used = self.resource(scores, keep.detach(), accounting, s=s, r=r)
        heads_units, dims = scores.sums(s, r)
        value = (self.y * heads_units).sum() + (self.p * dims).sum() + self.z * used
        by_s, by_r = torch.autograd.grad(value, [s, r])
        return by_s * self._allowed(), by_r * ("dims" in self.kinds)

    @torch.no_grad()
    def primal_step(self, by_s: Float[Tensor, "l 2"], by_r: Float[Tensor, "l _"], rates: Rates) -> None:
        """Go along the gradients: inward at a bound, each kind clipped to infinity norm 1."""
        spec = self.spec
        upper = torch.tensor([spec.heads - 1.0, spec.hidden - 1.0])
        span, width = (upper + 1, spec.head_width) if rates.relative else (torch.ones(2), 1)
        by_s = _clipped(span * _inward(self.s, by_s, upper))
        by_r = _inward(self.r, by_r, torch.tensor(spec.head_width - 1.0))
        by_r = width * by_r / (width * by_r.abs().max()).clamp(min=1)
        self.s = (self.s - torch.tensor([rates.heads, rates.units]) * span * by_s).clamp(min=0).minimum(upper)
        self.r = (self.r - rates.dims * width * by_r).clamp(0, spec.head_width - 1)

    def dual_step(
        self, scores: Scores, used: float, budget: float, rates: Rates, *, progress: float = 0.0
    ) -> None:
        """Raise the prices by what is violated, and the budget's by R − budget; ``progress`` is 0 to 1."""
        heads_units, dims = scores.sums(self.s, self.r)
        self.y = (self.y + rates.dual * heads_units).clamp(min=0).float()
        self.p = (self.p + rates.dual * dims).clamp(min=0).float()
        segment = min(int(progress * len(rates.z)), len(rates.z) - 1)
        self.z = max(0.0, self.z + rates.z[segment] * (used - budget))

    def violation(self, scores: Scores) -> float:
        """Return the largest of S and T, as a share of all scores."""
        heads_units, dims = scores.sums(self.s, self.r)
        return max(heads_units.max().item(), dims.max().item()) / max(scores.total, 1e-30)

    def state_dict(self) -> dict[str, Any]:
        """Return all five."""
        return {**{name: getattr(self, name).clone() for name in ("s", "r", "y", "p")}, "z": self.z}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        for name in ("s", "r", "y", "p"):
            setattr(self, name, state[name].clone())
        self.z = state["z"]

    def _allowed(self) -> Bool[Tensor, " 2"]:
        return torch.tensor(["heads" in self.kinds, "mlp" in self.kinds])


def _inward(values: Tensor, gradient: Tensor, upper: Tensor) -> Tensor:
    """The gradient without what would lead over a bound."""
    outward = ((values <= 0) & (gradient > 0)) | ((values >= upper) & (gradient < 0))
    return gradient.masked_fill(outward, 0)


def _clipped(gradient: Tensor) -> Tensor:
    """Each column within infinity norm 1."""
    return gradient / gradient.abs().amax(dim=0).clamp(min=1)
