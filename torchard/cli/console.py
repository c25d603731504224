'''What the verbs print with: tables with units in their heads, and ``--json`` for the same facts.

A verb is one file, ``torchard/cli/<verb>.py``, and needs to be named nowhere else. Its docstring is its help,
its signature its options; it gathers facts (plain JSON values), then shows them::

    """Count the files of a folder by kind."""

    from pathlib import Path
    from typing import Annotated

    import typer

    from torchard.cli.console import Column, Facts, emit, print_line, print_table


    def command(
        folder: Annotated[Path, typer.Argument(help="Where to look.")],
        *,
        least: Annotated[int, typer.Option(help="Leave out kinds with fewer files.")] = 1,
    ) -> int:
        from collections import Counter  # what is heavy (torch!) is imported here, when the verb runs

        kinds = Counter(path.suffix for path in folder.rglob("*") if path.is_file())
        rows = [{"kind": kind, "files": n} for kind, n in kinds.most_common() if n >= least]
        emit({"folder": folder, "rows": rows}, _show)
        return 0 if rows else 3


    def _show(facts: Facts) -> None:
        print_table(facts["rows"], [Column("kind"), Column("files")])
        print_line(f"Next: torchard fit {facts['folder']}")

``--json`` and ``--debug`` are added by the frame. Return 3 when a target was out of reach; for everything
that goes wrong, raise (``torchard.core.errors`` carry their exit codes). Progress goes to ``progress()``, on
stderr. A group of verbs (``torchard hub list``) is a sub-package with one file a verb; ``list_.py`` is typed
``list``.
'''

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

Facts = Mapping[str, Any]


def emit(facts: Facts, render: Callable[[Facts], None]) -> None:
    """Print ``facts`` as JSON under ``--json``; otherwise let ``render`` show them to a person.

    Call it once a command. Paths become strings and dataclasses objects; NaN and infinity become null.

    Raises:
        TypeError: if ``facts`` hold something that is no JSON value.
    """
    invocation = _invocation()
    if invocation.json:
        invocation.write(json.dumps(_plain(facts), indent=2, allow_nan=False) + "\n")
    else:
        render(facts)


def print_line(text: object = "", *, style: str = "") -> None:
    """Print one line, or what wraps of it, with nothing in it taken for markup."""
    _print(console(), Text(safe(text), style=style))


def print_table(rows: Sequence[Facts], columns: Sequence["Column"]) -> None:
    """Print one line a row, numbers to the right.

    Numbers are never cut and names never broken: a table that does not fit the terminal is shown record by
    record, one ``head  value`` a line.
    """
    out = console()
    cells = [[column.cell(row) for column in columns] for row in rows]
    numeric = [all(_is_number(row.get(column.key)) for row in rows) for column in columns]
    stacks = [list(stack) for stack in zip(*cells, strict=True)] or [[] for _ in columns]
    # Reckoned here: rich takes the longest word of "0.41 ± 0.01" for all the room the cell needs.
    least = [_least_width(*of) for of in zip((c.title for c in columns), stacks, numeric, strict=True)]
    wide = [max(map(cell_len, [column.title, *stack])) for column, stack in zip(columns, stacks, strict=True)]
    room = out.width - 3 * (len(columns) - 1)
    if sum(least) > room:
        _print_records(out, [column.title for column in columns], cells)
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column, right, width in zip(columns, numeric, least, strict=True):
        side: JustifyMethod = "right" if right else "left"
        most = width if right and sum(wide) > room else None  # the heads of numbers wrap before names do
        grid.add_column(Text(column.title), justify=side, min_width=width, max_width=most)
    for line in cells:
        grid.add_row(*map(Text, line))
    _print(out, grid)


def safe(text: object) -> str:
    """Return ``text`` with the unprintable escaped, so that a file name cannot steer the terminal."""
    return "".join(c if c.isprintable() else _escape(c) for c in str(text))


def console() -> Console:
    """Return a console on stdout; without a terminal it is 120 columns wide, or what COLUMNS says."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return _Plain(width=width, markup=False, highlight=False, emoji=False)


def progress() -> Console:
    """Return the console for progress and remarks, on stderr; nothing there is a result."""
    return _Plain(stderr=True, markup=False, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: which fact it shows and how.

    Facts are in base units; ``Column("params", unit="M", scale=1e-6, digits=1)`` shows 3400000 as 3.4 under
    the head ``params [M]``. ``spread`` names the fact shown behind ``±``.
    """

    key: str
    head: str = ""
    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    spread: str = ""

    @property
    def title(self) -> str:
        """The head, with its unit."""
        head = self.head or self.key.replace("_", " ")
        return f"{head} [{self.unit}]" if self.unit else head

    def cell(self, row: Facts) -> str:
        """Return what the table says of ``row`` here; what is not known is a dash."""
        shown = self._text(row.get(self.key))
        return f"{shown} ± {self._text(row[self.spread])}" if row.get(self.spread) is not None else shown

    def _text(self, value: Any) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list | tuple):
            return ", ".join(map(self._text, value))
        if not isinstance(value, int | float):
            return safe(value)
        digits = self.digits if self.digits is not None else (0 if isinstance(value, int) else 3)
        return f"{value * self.scale:.{digits}f}"


@dataclass(slots=True)
class Invocation:
    """What the shared options of one call said, and where its JSON goes."""

    json: bool = False
    debug: bool = False
    write: Callable[[str], object] = dataclasses.field(default_factory=lambda: sys.stdout.write)


class _Plain(Console):
    """A console that leaves a closed pipe to the frame; rich itself would exit with 1, which means failed."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _invocation() -> Invocation:
    context = click.get_current_context(silent=True)
    return (context.find_object(Invocation) if context else None) or Invocation()


def _print(out: Console, shown: RenderableType) -> None:
    """Print without the blanks that rich leaves at the ends of lines."""
    for segments in out.render_lines(shown, pad=False):
        line = Text.assemble(*((part.text, part.style or "") for part in segments), end="")
        line.rstrip()
        out.print(line, soft_wrap=True)


def _print_records(out: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, heads))
    for row in rows:
        for head, cell in zip(heads, row, strict=True):
            out.print(Text(f"{head:<{width}}  {cell}"), overflow="fold")
        out.print()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return str(value) if isinstance(value, Path) else value


def _least_width(title: str, cells: Sequence[str], whole: bool) -> int:
    """The room a column needs: its longest word, or its longest cell where cells must not be broken."""
    words = [word for cell in (title, *(() if whole else cells)) for word in cell.split()]
    return max(map(cell_len, [*words, *(cells if whole else ())]), default=1)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
