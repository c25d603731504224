"""Ctrl-C and SIGTERM wait for the end of a step; a second one does not wait."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torchard.core.errors import InterruptedRunError

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@dataclass
class Interruption:
    """Whether somebody asked to stop, and how (``"Ctrl-C"``, ``"SIGTERM"``)."""

    by: str | None = None

    def __bool__(self) -> bool:
        return self.by is not None


@contextlib.contextmanager
def postponed_interrupts() -> Iterator[Interruption]:
    """Within the block the first Ctrl-C or SIGTERM is only noted; the second raises at once.

    The block looks at what it is given and ends itself when it can be resumed. Outside the main thread, where
    Python delivers no signals, nothing changes.

    Raises:
        InterruptedRunError: on the second signal, or at the end of a block that overlooked the first.
    """
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        if interruption:
            raise InterruptedRunError("Stopped at once; the last checkpoint is good.")
        interruption.by = _NAMES[signal.Signals(number)]

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in _NAMES}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be given back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if interruption:
        raise InterruptedRunError(f"Stopped by {interruption.by}; what was begun is done and saved.")
