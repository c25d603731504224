"""One progress bar, on a terminal only."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Show = Callable[[float, str], None]


@contextlib.contextmanager
def progress_bar(title: str, *, shown: bool | None = None) -> Iterator[Show]:
    """Give a function ``show(fraction, text)`` that moves a bar on standard error, wiped away at the end.

    ``shown=None`` draws the bar only if standard error is a terminal; otherwise the function does nothing.
    """
    if shown is None:
        shown = sys.stderr is not None and sys.stderr.isatty()
    if not shown:
        yield lambda fraction, text: None
        return
    words = TextColumn("{task.description}", markup=False)
    facts = TextColumn("{task.fields[facts]}", markup=False)
    columns = (words, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), facts)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=1.0, facts="")
        yield lambda fraction, text: progress.update(task, completed=min(fraction, 1.0), facts=text)
