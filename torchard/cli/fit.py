"""From your data and a budget to a small deployed model.

DATA is a folder with one folder per class, a CSV file (path,label), or a name: elpv, digits, mnist, hf:NAME.
"""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table, progress


def command(
    data: Annotated[str, typer.Argument(help="A folder, a CSV file, or a name such as elpv.")],
    *,
    time: Annotated[str, typer.Option(help="For all stages together, such as 90s, 10m or 1h30m.")] = "10m",
    macs: Annotated[str, typer.Option(help="Such as 0.5x or 120M. Default without any target: 0.5x.")] = "",
    latency: Annotated[str, typer.Option(help="Of one image in PyTorch, here; such as 8ms or 0.5x.")] = "",
    params: Annotated[str, typer.Option(help="Such as 2M or 0.25x.")] = "",
    metric: Annotated[
        str, typer.Option(help="accuracy, balanced_accuracy, macro_f1 or auroc. Default: fits the data.")
    ] = "",
    models: Annotated[str, typer.Option(help="A glob over names in the hub.")] = "*",
    out: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/ and the data's name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of all chance.")] = 0,
    strict: Annotated[bool, typer.Option(help="Refuse data with unreadable or doubled images.")] = False,
) -> int:
    from torchard.core.budget import parse_latency, parse_macs, parse_params, parse_seconds
    from torchard.pipeline import Settings, fit

    settings = Settings(
        data=data,
        seconds=parse_seconds(time),
        macs=parse_macs(macs) if macs else None,
        latency=parse_latency(latency) if latency else None,
        params=parse_params(params) if params else None,
        metric=metric or None,
        models=models,
        seed=seed,
        strict=strict,
    )
    notes = progress()
    facts = fit(settings, out or default_folder(data), say=notes.print)
    emit(facts, show)
    return 0 if facts["reached"] and facts["in_time"] else 3


def default_folder(data: str) -> Path:
    """Return ``runs/`` and a plain word for the data."""
    word = "".join(letter if letter.isalnum() else "-" for letter in Path(data).name).strip("-")
    return Path("runs") / (word or "run")


def show(facts: Facts) -> None:
    """Print what was built as a table, the targets, the files and what to do next."""
    print_table(
        facts["models"],
        [
            Column("name", head=f"{facts['model']}, {facts['tuned_by']}"),
            Column("test", head=f"test {facts['metric'].replace('_', ' ')}", unit="%", scale=100.0, digits=1),
            Column("params", unit="M", scale=1e-6, digits=2),
            Column("macs", head="MACs", unit="M", scale=1e-6, digits=0),
            Column("bytes", head="ONNX file", unit="MB", scale=1e-6, digits=1),
            Column("latency_ms", head="latency", unit="ms", digits=2),
        ],
    )
    targets = ", ".join(f"{name} {limit}" for name, limit in facts["targets"].items())
    verdict = "reached" if facts["reached"] else "out of reach; this is the nearest"
    print_line(f"Target {targets}: {verdict}. {facts['test_images']} test images.")
    late = "" if facts["in_time"] else "; too little for this data on this machine"
    print_line(f"Time: {facts['seconds']:.0f} s of {facts['budget_seconds']:.0f} s{late}.")
    for note in facts["notes"]:
        print_line(f"Note: {note}")
    print_line(f"Report: {facts['report']}")
    print_line(f"Next: torchard predict {facts['run']} IMAGE   or   torchard serve {facts['run']}")
