"""A run in progress: its folder, its data, its settings, and how its time is shared out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torchard.core.budget import human
from torchard.core.data import Task
from torchard.core.run import RunFolder, content_key
from torchard.pipeline.settings import Settings

Stage = Literal["rank", "tune", "prune", "export", "report"]
# Shares of the whole time; what a stage leaves over goes to those after it. A cut network that was refitted
# needs fewer steps than the whole one did, though its teacher makes each of them dearer.
SHARES: dict[Stage, float] = {"rank": 0.06, "tune": 0.55, "prune": 0.29, "export": 0.08, "report": 0.02}
BEFORE_TARGETS = ("rank", "tune")  # what they compute is the same for any target


@dataclass
class Job:
    """What every stage is handed. ``say`` receives one line of text per step, for people.

    ``loading`` is how many seconds of the whole time went into reading the data.
    """

    run: RunFolder
    task: Task
    settings: Settings
    say: Callable[[str], None] = field(default=lambda line: None)
    loading: float = 0.0

    def stage(
        self,
        name: Stage,
        after: Mapping[str, Any],
        compute: Callable[[], dict[str, Any]],
        *,
        files: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the stage's result: the one in the folder if data, settings and what came before agree.

        ``after`` is the result of the stage before, ``files`` what the stage writes beside its result, which
        holds the ``seconds`` that computing took.
        """
        key = {"key": self.key(name, after)}
        facts = self.run.cached(name, key, lambda: _timed(compute), files=files)
        self.run.stage(name).checkpoint.unlink(missing_ok=True)  # a finished stage needs none
        return facts

    def key(self, name: Stage, after: Mapping[str, Any]) -> str:
        """Return a digest of all that the stage's result depends on."""
        settings = self.settings.to_json()
        if name in BEFORE_TARGETS:
            del settings["targets"]
        known = {"stage": name, "data": self.task.fingerprint, "settings": settings}
        return content_key({**known, "after": _lasting(after)})

    def share(self, name: Stage) -> float:
        """Return the seconds that stage ``name`` may take: its share of what the stages before left.

        A stage whose time is gone still gets a tenth of its share, so that a run always ends with a model.
        """
        stages = list(SHARES)
        used = self.loading + sum(self.spent(stage) for stage in stages[: stages.index(name)])
        left = self.settings.seconds - used
        rest = sum(SHARES[stage] for stage in stages[stages.index(name) :])
        return SHARES[name] * max(left / rest, 0.1 * self.settings.seconds)

    def spent(self, name: Stage) -> float:
        """Return the seconds that a finished stage took; 0 for one that has not run."""
        return float((self.run.read(name) or {}).get("seconds", 0.0))


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Hand out a function that returns the seconds since the context was entered."""
    start = time.monotonic()
    yield lambda: time.monotonic() - start


def cost_line(costs: Mapping[str, Any]) -> str:
    """Return ``"2.2 M params, 300 M MACs"`` for people."""
    return f"{human(costs['params'])} params, {human(costs['macs'])} MACs"


def _timed(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with stopwatch() as seconds:
        return compute() | {"seconds": seconds()}


def _lasting(result: Mapping[str, Any]) -> dict[str, Any]:
    """What later stages read; a stage computed again with the same outcome must not undo those after it."""
    names = ("chosen", "model", "input", "validation", "validation_after")
    return {name: result[name] for name in names if name in result}
