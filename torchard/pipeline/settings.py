"""What the user asked of a run: data, time, targets, seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchard.core.budget import Limit, parse_latency, parse_macs, parse_params
from torchard.core.data.task import checked_metric
from torchard.core.errors import UsageError

DEFAULT_SECONDS = 600.0
SHORTEST = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run; they and the data decide everything that the run computes.

    ``seconds`` is the time for all stages together. Without any target the model is pruned to half its
    multiply-accumulates. ``models`` is a glob over the names in the hub.

    Raises:
        UsageError: if the time is too short to do anything, the metric unknown, or the seed negative.
    """

    data: str
    seconds: float = DEFAULT_SECONDS
    macs: Limit | None = None
    latency: Limit | None = None
    params: Limit | None = None
    metric: str | None = None
    models: str = "*"
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.seconds >= SHORTEST:
            raise UsageError(f"`seconds={self.seconds}` is too short for a run; the least is {SHORTEST:g}")
        if self.metric is not None:
            checked_metric(self.metric)
        if self.seed < 0:
            raise UsageError(f"`seed={self.seed}` must not be negative")

    @property
    def targets(self) -> dict[str, Limit]:
        """The limits that the pruned model shall keep, by quantity; half the MACs if none was named."""
        named = {"macs": self.macs, "latency": self.latency, "params": self.params}
        given = {name: limit for name, limit in named.items() if limit is not None}
        return given or {"macs": parse_macs("0.5x")}

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in the run folder's settings."""
        return {
            "data": self.data,
            "seconds": self.seconds,
            "targets": {name: str(limit) for name, limit in self.targets.items()},
            "metric": self.metric,
            "models": self.models,
            "seed": self.seed,
            "strict": self.strict,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Return the settings that :meth:`to_json` wrote; what else stands in ``values`` is left alone.

        Raises:
            UsageError: if a setting is missing or cannot be read.
        """
        plain = ("data", "seconds", "metric", "models", "seed", "strict")
        missing = [name for name in (*plain, "targets") if name not in values]
        if missing:
            raise UsageError(f"The run's settings have no {missing[0]!r}; it was not made by this torchard.")
        limits: Any = {name: PARSERS[name](text) for name, text in values["targets"].items()}
        return cls(**{name: values[name] for name in plain}, **limits)


PARSERS = {"macs": parse_macs, "params": parse_params, "latency": parse_latency}
