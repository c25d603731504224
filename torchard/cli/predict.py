"""Name what is in pictures, with a run's exported model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from torchard.cli.console import Column, Facts, emit, print_table


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, or an exported .onnx file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    *,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for each image.")] = 1,
) -> int:
    from torchard.export.runs import open_run

    model = open_run(run)
    rows = [_answer(model, path, top) for path in images]
    emit({"images": rows}, _show)
    return int(any("error" in row for row in rows))


def _answer(model: Any, path: Path, top: int) -> dict[str, Any]:
    from torchard.export.standalone import read_image

    try:
        image = read_image(path)
    except ValueError as error:
        return {"image": str(path), "error": str(error)}
    best = model.predict([image], top=top)[0]
    predictions = [{"label": label, "confidence": confidence} for label, confidence in best]
    return {"image": str(path), **predictions[0], "predictions": predictions}


def _show(facts: Facts) -> None:
    rows = [line for row in facts["images"] for line in _lines(row)]
    confidence = Column("confidence", unit="%", scale=100.0, digits=1)
    print_table(rows, [Column("image"), Column("label"), confidence])


def _lines(row: Facts) -> Sequence[Facts]:
    """One line a guess, the image named in the first."""
    if "error" in row:
        return [{"image": row["image"], "label": f"not read: {row['error']}", "confidence": None}]
    return [
        {**guess, "image": row["image"] if number == 0 else ""}
        for number, guess in enumerate(row["predictions"])
    ]
