"""Write a run's report.html again, from what stages have finished."""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import emit, print_line


def command(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> int:
    from torchard.report.page import write_report

    path = write_report(run)
    emit(
        {"report": path, "bytes": path.stat().st_size}, lambda facts: print_line(f"Report: {facts['report']}")
    )
    return 0
