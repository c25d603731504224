"""What a training writes down: losses, metrics, history; each line once, however often it is killed."""

from typing import Any

from torchard.core.run import Stage

_OWN_NAMES = {"time", "stage", "phase", "epoch", "step", "loss", "lr"}


class Ledger:
    """Metrics of a stage (or none), the mean loss since the last evaluation, and the history."""

    def __init__(self, stage: Stage | None) -> None:
        self.stage, self.history = stage, list[dict[str, Any]]()
        self._total, self._count, self._lines = 0.0, 0, 0

    def log(self, **metrics: Any) -> None:
        """Append a line to the metrics."""
        if self.stage is not None:
            self.stage.log(**metrics)
            self._lines += 1

    def add(self, loss: float) -> None:
        """Count a step's loss towards the mean."""
        self._total, self._count = self._total + loss, self._count + 1

    def evaluated(self, metrics: dict[str, Any], *, epoch: int, step: int, lr: float) -> None:
        """Write down an evaluation, with the mean loss since the one before.

        Raises:
            ValueError: if the metrics have names that the training uses itself.
        """
        if taken := sorted(_OWN_NAMES & metrics.keys()):
            raise ValueError(f"`evaluate` may not return {taken}; say, for example, validation_{taken[0]}.")
        loss = self._total / self._count if self._count else None
        self.log(epoch=epoch, step=step, loss=loss, lr=lr, **metrics)
        self.history.append({"epoch": epoch, "step": step, "loss": loss, **metrics})
        self._total, self._count = 0.0, 0

    def start(self) -> None:
        """Drop what this stage logged beyond what the state knows of: it is about to be logged again."""
        if self.stage is not None:
            self.stage.rewind(self._lines)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, the mean so far, and how many lines were logged; these are now on the disk."""
        if self.stage is not None:
            self.stage.sync()
        return {"history": self.history, "mean": (self._total, self._count), "lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.history, (self._total, self._count), self._lines = (
            state["history"],
            state["mean"],
            state["lines"],
        )
