"""Write a run's model as ONNX and .pt2 files, checked on image files."""

from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table, progress


def command(
    run: Annotated[Path, typer.Argument(help="A run folder: its pruned model, or the tuned one.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Where to write to. Default: the run folder.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="An image file to check the answers on; repeat it. Default: from the run's data."),
    ] = None,
) -> int:
    from torchard.pipeline.export_run import export_run

    emit(export_run(run, out=out, images=image or (), say=progress().print), _show)
    return 0


def _show(facts: Facts) -> None:
    rows = [{**facts[name], "labels": "all equal"} for name in ("onnx", "pt2")]
    print_table(
        rows,
        [
            Column("file"),
            Column("bytes", head="size", unit="MB", scale=1e-6, digits=2),
            Column("images", head="images checked"),
            Column("labels"),
            Column("max_abs_diff", head="largest difference", digits=6),
        ],
    )
    if "before" in facts:
        print_line()
        print_table(
            [{"name": f"{name} pruning", **facts[name]} for name in ("before", "after")],
            [
                Column("name", head="model"),
                Column("params", unit="M", scale=1e-6, digits=2),
                Column("macs", head="MACs", unit="M", scale=1e-6, digits=0),
                Column("bytes", head="weights", unit="MB", scale=1e-6, digits=1),
                Column("latency_ms", head="latency in PyTorch", unit="ms", digits=2),
            ],
        )
        print_line()
    eager, runtime = (facts[name]["latency_ms"]["median"] for name in ("eager", "onnx"))
    print_line(f"One image takes {runtime:.2f} ms in ONNX Runtime, {eager:.2f} ms in PyTorch.")
    folder = facts["folder"]
    print_line(f"Next: torchard predict {folder} IMAGE   or   python {folder}/predict.py IMAGE")
