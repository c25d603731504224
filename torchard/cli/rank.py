"""Rank pre-trained models for your data from one forward pass each, without training any.

Scores order models on one data set; they have no range and mean nothing on their own.
"""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table, progress
from torchard.core.errors import UsageError

BAR = 30


def command(
    data: Annotated[str, typer.Argument(help="A folder, a CSV file, or a name such as elpv.")],
    *,
    models: Annotated[str, typer.Option(help="A name in the hub, or a glob over those that are here.")] = "*",
    scorer: Annotated[
        str, typer.Option(help="Names, the first one orders: logme, knn, linear_probe, leep, …")
    ] = "logme,knn",
    samples: Annotated[int, typer.Option(help="Training images to look at; 0 takes all.")] = 1000,
    cache: Annotated[
        Path | None, typer.Option(help="A folder to keep features in, for the next call.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the models.")] = 1,
    engine: Annotated[str, typer.Option(help="Where they run: local, or ray (a cluster).")] = "local",
    seed: Annotated[int, typer.Option(help="Of the split and of the sample.")] = 0,
) -> None:
    from torchard.core.data import load_task
    from torchard.pipeline.rank import available
    from torchard.select.rank import rank
    from torchard.select.scorers import Scorer, named

    first, *others = [named(name.strip()) for name in scorer.split(",")]
    if not isinstance(first, Scorer):
        raise UsageError(
            f"--scorer {scorer!r}: {first.name} has no error of its own; name another one first."
        )
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine!r} must be local or ray.")
    if samples < 0 or samples == 1:
        raise UsageError(f"--samples {samples}: give at least 2, or 0 for all.")
    names = available(models)
    task = load_task(data, seed=seed)
    notes = progress()
    ranking = rank(
        names,
        task,
        scorer=first,
        beside=others,
        samples=samples or None,
        seed=seed,
        cache=cache,
        workers=workers,
        engine="ray" if engine == "ray" else "local",
        progress=lambda name: notes.print(
            f"Looking with {name} …" if workers == 1 else f"Looked with {name}."
        ),
    )
    emit({"data": data, "task": task.name, **ranking.to_json()}, show)


def show(facts: Facts) -> None:
    """Print the table, a chart of the first score with its errors, the verdict, and what to do next."""
    own = {"model", "source", "score", "error", "gap", "params", "macs", "seconds", "features", "input"}
    beside = [name for name in facts["rows"][0] if name not in own]
    print_table(
        facts["rows"],
        [
            Column("model"),
            Column("score", head=facts["scorer"], spread="error"),
            Column("gap"),
            *(Column(name) for name in beside),
            Column("params", unit="M", scale=1e-6, digits=2),
            Column("macs", head="MACs", unit="M", scale=1e-6, digits=0),
            Column("seconds", head="time", unit="s", digits=1),
        ],
    )
    print_line()
    for line in chart(facts["rows"]):
        print_line(line)
    print_line()
    for name, reason in facts["failed"].items():
        print_line(f"Not ranked: {name}: {reason}")
    print_line(f"{facts['reason']} {facts['samples']} images looked at.")
    print_line(f"Next: torchard tune {facts['data']} --model {facts['chosen']}")


def chart(rows: list[Facts]) -> list[str]:
    """Return a line per model: its score as a point within its two standard errors, on one scale."""
    scored = [row for row in rows if row["score"] is not None]
    low = min(row["score"] - 2 * row["error"] for row in scored)
    high = max(row["score"] + 2 * row["error"] for row in scored)
    width = max(len(row["model"]) for row in scored)
    return [f"{row['model']:<{width}}  {_bar(row, low, high)}".rstrip() for row in scored]


def _bar(row: Facts, low: float, high: float) -> str:
    def column(value: float) -> int:
        return round((value - low) / (high - low) * (BAR - 1)) if high > low else BAR // 2

    first, last = column(row["score"] - 2 * row["error"]), column(row["score"] + 2 * row["error"])
    cells = ["─" if first <= i <= last else " " for i in range(BAR)]
    cells[column(row["score"])] = "●"
    return "".join(cells)
