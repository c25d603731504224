"""What pruning did, for people and for files."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from torchard.core.budget import human
from torchard.prune.depgraph.decision import Plan


@dataclass(frozen=True)
class PruneReport:
    """The pruned model and the plan it was pruned by; prints before and after."""

    model: nn.Module
    plan: Plan

    @property
    def macs_ratio(self) -> float:
        """MACs after over MACs before."""
        before, after = self.plan.macs
        return after / before if before else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the facts without the model."""
        plan = self.plan
        return {
            "before": {"params": plan.params[0], "macs": plan.macs[0]},
            "after": {"params": plan.params[1], "macs": plan.macs[1]},
            "groups": [{"name": n, "before": a, "after": b} for n, (a, b) in plan.widths.items()],
            "frozen": [{"name": name, "reason": "; ".join(why)} for name, why in plan.frozen.items()],
            "tags": list(plan.tags),
        }

    def __str__(self) -> str:
        (params, fewer), (macs, less) = self.plan.params, self.plan.macs
        lines = [f"{name:<48} {before:>6} → {after}" for name, (before, after) in self.plan.widths.items()]
        return "\n".join(
            [
                f"params {human(params)}→ {human(fewer)}, MACs {human(macs)}→ {human(less)}"
                f" ({self.macs_ratio:.2f}x), {len(lines)} groups",
                *lines,
            ]
        )
