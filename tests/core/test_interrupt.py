"""core.interrupt: the first signal waits, the second does not, none is lost."""

import os
import signal
import threading

import pytest

from torchard.core.errors import InterruptedRunError
from torchard.core.interrupt import postponed_interrupts

SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def interrupted(*numbers: int, error: type[Exception] | None = None) -> list[str | None]:
    """Send the signals within a block; return what was noted after each that did not raise."""
    noted: list[str | None] = []

    def block() -> None:
        with postponed_interrupts() as interruption:
            noted.append(interruption.by)
            for number in numbers:
                os.kill(os.getpid(), number)
                noted.append(interruption.by)
            if error:
                raise error

    with pytest.raises(error or InterruptedRunError) as caught:
        block()
    return [*noted, str(caught.value)]


@pytest.mark.parametrize("name", SIGNALS)
def test_the_first_is_noted_and_told_at_the_end(name):
    told = f"Stopped by {name}; what was begun is done and saved."
    assert interrupted(SIGNALS[name]) == [None, name, told]


def test_the_second_raises_at_once_whichever_it_is():
    told = "Stopped at once; the last checkpoint is good."
    assert interrupted(signal.SIGINT, signal.SIGTERM, signal.SIGINT) == [None, "Ctrl-C", told]


def test_an_error_in_the_block_is_not_hidden():
    assert interrupted(signal.SIGINT, error=KeyError)[:2] == [None, "Ctrl-C"]


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS.values()]
    with postponed_interrupts():
        assert [signal.getsignal(number) for number in SIGNALS.values()] != before
    assert [signal.getsignal(number) for number in SIGNALS.values()] == before


def test_an_interrupted_run_is_a_keyboard_interrupt_with_exit_code_130():
    assert issubclass(InterruptedRunError, KeyboardInterrupt)
    assert InterruptedRunError.exit_code == 130


def test_other_threads_are_left_alone():
    found = []

    def work():
        with postponed_interrupts() as interruption:
            found.append(bool(interruption))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) is before
