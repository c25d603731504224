"""Write down what an experiment measured, with all that is needed to measure it again."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torchard.cli.console import Column, print_line, print_table
from torchard.core.files import write_json
from torchard.core.provenance import command, machine, versions

ROOT = Path(__file__).resolve().parent.parent
NAMED = ("torchard", "torch", "torchvision", "timm", "numpy", "onnxruntime")


def save(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    claim: str,
    verdict: str = "",
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Print ``rows`` as a table, write them to ``path`` (below the repository) and return the file's path.

    ``claim`` says what was expected, ``verdict`` what came of it; ``details`` holds what the table leaves
    out, such as values per seed. The documentation shows the table by ``{{ results("slug") }}``.

    Raises:
        ValueError: if a number is NaN or infinite: a result that failed is written as None, with its reason.
    """
    file = ROOT / path
    record = {
        "format": 1,
        "claim": claim,
        "verdict": verdict,
        "table": {
            "columns": [column.title for column in columns],
            "rows": [[column.cell(row) for column in columns] for row in rows],
        },
        "rows": [dict(row) for row in rows],
        "details": dict(details or {}),
        "measured": provenance(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)
    print_table(rows, columns)
    print_line(verdict)
    print_line(f"Written: {file}")
    return file


def provenance() -> dict[str, Any]:
    """Return the command, the date, the machine and the versions, as a JSON value."""
    return {
        "command": shlex.join(command()),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(NAMED),
    }
