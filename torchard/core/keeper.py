"""Keep a training on disk, so that a killed one goes on with the same numbers."""

import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from torchard.core import checkpoint
from torchard.core.callback import TrainingRun
from torchard.core.errors import DivergedError, FileRefusedError, UsageError
from torchard.core.files import quote
from torchard.core.randomness import random_state, set_random_state
from torchard.core.run import Stage

SHARE = 20  # checkpoints take at most one part in so many of the time


@runtime_checkable
class Stateful(Protocol):
    """Whatever has state that must survive a kill."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Keeper:
    """Save and restore a run with its model, its generator, named parts, and the global random states.

    ``identity`` is what a checkpoint must agree in to be gone on with. Without a ``stage`` nothing is kept.
    Of several processes the first writes, with the random states of all. ``summary`` tells users what there
    is.
    """

    def __init__(
        self,
        stage: Stage | None,
        accelerator: Accelerator,
        run: TrainingRun,
        parts: Mapping[str, Stateful],
        *,
        identity: Mapping[str, Any],
    ) -> None:
        self.stage, self.accelerator, self.run, self.parts = stage, accelerator, run, dict(parts)
        self.identity = {**identity, "parts": list(self.parts)}
        self.summary = (
            "nothing was saved, for want of a `folder`" if stage is None else "nothing was saved yet"
        )
        self._saved_at = self._cost = 0.0

    def due(self, clock: float, every: float | int) -> bool:
        """Return whether a checkpoint should be written now, ``clock`` seconds into the training."""
        return self.stage is not None and clock - self._saved_at >= max(every, SHARE * self._cost)

    def save(self, clock: float, *, limits: Mapping[str, float | int] | None = None) -> None:
        """Write everything over the checkpoint before; ``limits`` of a training that has reached them.

        Raises:
            DivergedError: if the model holds NaN or infinity; the checkpoint before stays.
        """
        if self.stage is None:
            return
        begun, here = time.monotonic(), [random_state()]
        randoms = gather_object(here) if self.accelerator.num_processes > 1 else here
        if self.accelerator.is_main_process:
            limits = None if limits is None else dict(limits)
            checkpoint.save(self.stage.checkpoint, self._state() | {"random": randoms, "limits": limits})
        self.accelerator.wait_for_everyone()
        self._saved(self.stage, clock)
        # Several processes would each measure another cost, but must agree on when the next is due.
        self._cost = time.monotonic() - begun if len(randoms) == 1 else 0.0

    def find(self) -> dict[str, Any] | None:
        """Return the state on disk, or ``None`` if there is none for this stage and its key.

        Raises:
            FileRefusedError: if the checkpoint is damaged.
            UsageError: if it is of another training.
        """
        if self.stage is None:
            return None
        try:
            state = checkpoint.load(self.stage.checkpoint)
        except FileNotFoundError:
            return None
        except FileRefusedError as error:
            raise FileRefusedError(f"{error} Remove it to begin this training again.") from None
        if state["key"] != self.stage.key:
            return None
        for name, here in self.identity.items():
            there = state["identity"].get(name)
            if there != here:
                what = f"{quote(self.stage.checkpoint)} is of a training with {name} {there}, not {here}"
                raise UsageError(f"{what}; remove it or use another folder.")
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Set everything but the run's own counters to what it was when ``state`` was saved.

        Raises:
            FileRefusedError: if the model is another one; nothing was changed then.
        """
        assert self.stage is not None
        try:
            checkpoint.load_into(self.run.model, state["model"])
        except FileRefusedError as error:
            what = f"{quote(self.stage.checkpoint)} is of another model"
            raise FileRefusedError(f"{what}; remove it or use another folder. {error}") from None
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.run.generator.set_state(state["generator"])
        if self.accelerator.process_index < len(state["random"]):
            set_random_state(state["random"][self.accelerator.process_index])
        self._saved(self.stage, 0.0)

    def _saved(self, stage: Stage, clock: float) -> None:
        self.summary = f"the last good checkpoint is of step {self.run.step}, {quote(stage.checkpoint)}"
        self._saved_at = clock

    def _state(self) -> dict[str, Any]:
        assert self.stage is not None
        model = self.run.model.state_dict()
        tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)}
        sick = next((name for name, value in tensors.items() if not checkpoint.is_finite(value)), None)
        if sick is not None:
            raise DivergedError(
                f"NaN or infinity in {quote(sick)} after step {self.run.step}; {self.summary}."
            )
        return {
            "key": self.stage.key,
            "identity": self.identity,
            "run": self.run.state_dict(),
            "model": model,
            "generator": self.run.generator.get_state(),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
