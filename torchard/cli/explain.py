"""Run a Python script and tell what torch.compile made of it: graph breaks, recompilations, times, files.

SCRIPT runs as __main__ with the arguments after it. Everything is written to --out as source.
"""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table
from torchard.core.errors import UsageError


def command(
    script: Annotated[Path, typer.Argument(help="The Python script to run.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments (after --).")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the dump.")] = Path("compiled"),
    backend: Annotated[str, typer.Option(help="Use this backend in every torch.compile of the script.")] = "",
    diff: Annotated[Path | None, typer.Option(help="Folder of an earlier dump to compare with.")] = None,
) -> None:
    if not script.is_file():
        raise UsageError(f"script {str(script)!r} is not a file")
    if diff is not None and not (diff / "index.json").is_file():
        raise UsageError(f"--diff {str(diff)!r} holds no index.json; give the folder of an earlier dump")
    from torchard.compiler.dynamo.explain import compare
    from torchard.compiler.dynamo.index import index_facts
    from torchard.compiler.dynamo.script import run_script

    session = run_script(script, arguments or [], out, backend=backend or None)
    differences = compare(diff, session.directory) if diff is not None else []
    emit({**index_facts(session), "out": str(session.directory), "differences": differences}, _show)


def _show(facts: Facts) -> None:
    rows = [
        {
            "function": frame["name"],
            "line": frame["line"],
            "compilations": len(frame["entries"]),
            "breaks": len(frame["breaks"]),
            "seconds": round(sum(entry["seconds"] or 0.0 for entry in frame["entries"]), 2),
        }
        for frame in facts["frames"]
    ]
    names = ["function", "line", "compilations", "breaks", "seconds"]
    print_table(rows, [Column(name) for name in names])
    for frame in facts["frames"]:
        for one in frame["breaks"]:
            print_line(f"graph break in {frame['name']}, line {one['line']}: {_line(one['reason'])}")
        for entry in frame["entries"][1:]:
            print_line(f"recompiled {frame['name']}: {_line(entry['recompile']) or 'no reason given'}")
    for difference in facts["differences"]:
        print_line(difference)
    print_line(f"Read on: {facts['out']}/index.html (the same as text: index.md)")


def _line(text: str) -> str:
    from torchard.compiler.dynamo.index import telling_line

    return telling_line(text)
