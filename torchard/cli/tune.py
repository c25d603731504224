"""Adapt one pre-trained model to your data: linear probe, SSF or fine-tuning, chosen on validation."""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table, progress


def command(
    data: Annotated[str, typer.Argument(help="A folder, a CSV file, or a name such as elpv.")],
    *,
    model: Annotated[
        str, typer.Option(help="A name from `torchard hub list`. Default: rank them first.")
    ] = "",
    time: Annotated[str, typer.Option(help="For the tuning, such as 90s or 10m.")] = "5m",
    metric: Annotated[
        str, typer.Option(help="accuracy, balanced_accuracy, macro_f1 or auroc. Default: fits the data.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/DATA-tuned.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of all chance.")] = 0,
) -> int:
    from torchard.cli.fit import default_folder
    from torchard.core.budget import parse_seconds
    from torchard.pipeline import Settings, rank, tune
    from torchard.pipeline.fit import opened
    from torchard.pipeline.job import SHARES

    settings = Settings(
        data=data,
        seconds=round(parse_seconds(time) / SHARES["tune"], 1),
        metric=metric or None,
        models=model or "*",
        seed=seed,
    )
    # A folder of its own: what fit keeps in runs/DATA was made with other settings.
    own = default_folder(data)
    with opened(settings, out or own.with_name(f"{own.name}-tuned"), say=progress().print) as job:
        tuned = tune(job, {"chosen": model} if model else rank(job))
        facts = {**tuned.facts, "metric": job.task.metric, "run": str(job.run.path)}
    emit(facts, show)
    return 0


def show(facts: Facts) -> None:
    """Print the candidates, the choice, and what to do next."""
    rows = [{**row, "score": row["validation"][facts["metric"]]} for row in facts["candidates"]]
    metric = facts["metric"].replace("_", " ")
    print_table(
        rows,
        [
            Column("name", head=facts["model"]),
            Column("score", head=f"validation {metric}", unit="%", scale=100.0, digits=1),
            Column("trained_params", head="trained", unit="k", scale=1e-3, digits=1),
            Column("seconds", unit="s", digits=0),
            Column("chosen"),
        ],
    )
    for note in facts["notes"]:
        print_line(f"Note: {note}")
    print_line(f"Chosen: {facts['chosen']}. Weights: {facts['run']}/tuned.safetensors")
    print_line(f"Next: torchard prune {facts['run']}   or   torchard export {facts['run']}")
