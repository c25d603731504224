"""How much of a training's epochs, steps and seconds is used."""

import math
import time
from typing import Any

from torchard.core.errors import UsageError

LIMITS = ("epochs", "steps", "seconds")


class Allowance:
    """Limits on epochs, steps and seconds, and the clock that the last of them needs.

    The clock goes on from what was saved: time before a kill counts. What an evaluation costs (``closing``)
    is set aside from the seconds, since one follows the last step.
    """

    def __init__(self, *, epochs: int | None, steps: int | None, seconds: float | int | None) -> None:
        given = zip(LIMITS, (epochs, steps, seconds))
        self.limits = {name: limit for name, limit in given if limit is not None}
        if not self.limits or not all(0 < limit < math.inf for limit in self.limits.values()):
            got = self.limits or "none of them"
            raise UsageError(f"Give `epochs`, `steps` or `seconds`, above zero; got {got}.")
        self.start()

    def start(self) -> None:
        """Set the clock to zero."""
        self._zero, self.clock, self.closing = time.monotonic(), 0.0, 0.0

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._zero

    def used(self, *, epochs: float | int, steps: int) -> dict[str, float]:
        """Return which part of each limit is used, at the time last written to ``clock``."""
        done = {"epochs": epochs, "steps": steps, "seconds": self.clock + self.closing}
        return {name: done[name] / limit for name, limit in self.limits.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the time used."""
        return {"clock": self.clock, "closing": self.closing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved time."""
        self.clock, self.closing = state["clock"], state["closing"]
        self._zero = time.monotonic() - self.clock
