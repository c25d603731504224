"""One door to all data sets: ``load_task``."""

from pathlib import Path

from torchard.core.data.task import METRICS, Metric, Task
from torchard.core.errors import UsageError


def load_task(
    spec: str,
    *,
    seed: int = 0,
    root: Path | None = None,
    strict: bool = False,
    metric: Metric | None = None,
) -> Task:
    """Return the task named by ``spec``."""
    if metric is not None and metric not in METRICS:
        raise UsageError(f"`metric={metric!r}` is unknown; choose {', '.join(METRICS)}")
    name, _, variant = spec.partition(":")
    if name == "elpv":
        from torchard.core.data.elpv import load_elpv

        return load_elpv(variant, seed=seed, metric=metric)
    raise UsageError(f"`{spec}` is unknown")
