"""What a pruned model may cost, and which width assignment comes closest from below."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from torchard.core.budget import Limit, parse_latency, parse_macs, parse_params
from torchard.prune.depgraph.decision import Plan

Amount = int | float | str | Limit


@dataclass(frozen=True)
class Target:
    """Upper limits on MACs, parameters and milliseconds; those given hold together.

    ``macs`` and ``params`` are a share (a float up to 1), a count, or text such as ``"0.5x"`` and ``"120M"``;
    ``latency`` is milliseconds or text such as ``"8ms"`` and ``"0.5x"``, and needs ``measure``, a function of
    a model that returns milliseconds.
    """

    macs: Amount | None = None
    params: Amount | None = None
    latency: Amount | None = None
    measure: Callable[[nn.Module], float] | None = None

    def limits(self) -> list[Limit]:
        """The limits given.

        Raises:
            ValueError: if there is none, or one is not positive.
        """
        found = []
        if self.macs is not None:
            found.append(_limit("macs", self.macs))
        if self.params is not None:
            found.append(_limit("params", self.params))
        if self.latency is not None:
            found.append(_limit("latency", self.latency))
        if not found:
            raise ValueError("`target` names no limit; give macs, params or latency")
        return found


class UnreachableTargetError(ValueError):
    """No allowed widths meet the target; ``nearest`` is the plan that comes closest."""

    exit_code = 3

    def __init__(self, message: str, nearest: Plan) -> None:
        super().__init__(message)
        self.nearest = nearest


def as_target(target: "Target | Limit") -> Target:
    """A single parsed limit is a target of its own."""
    if isinstance(target, Limit):
        limits: dict[str, Amount] = {target.quantity: target}
        return Target(macs=limits.get("macs"), params=limits.get("params"), latency=limits.get("latency"))
    return target


def _limit(quantity: str, amount: Amount) -> Limit:
    if isinstance(amount, Limit):
        return amount
    if isinstance(amount, str):
        return {"macs": parse_macs, "params": parse_params, "latency": parse_latency}[quantity](amount)
    if not amount > 0:
        raise ValueError(f"`target.{quantity}={amount}` must be positive")
    relative = quantity != "latency" and isinstance(amount, float) and amount <= 1
    return Limit(quantity, float(amount), relative)  # type: ignore[arg-type]
