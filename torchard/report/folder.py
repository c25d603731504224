"""Read a run folder for showing: whatever is there, in the types expected, and nothing else.

A stage that has not run is an empty dictionary, and a value of the wrong type is an unknown one: the
page shows what there is. A file that is no JSON at all is refused by :func:`torchard.core.files.read_json`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchard.core.errors import UsageError
from torchard.core.files import read_json

STAGE_FILES = ("data", "rank", "tune", "prune", "export", "test", "timing")
_LINE_BYTES = 1 << 16
_LINES = 1_000_000


@dataclass(frozen=True)
class RunRecord:
    """What the files of one run folder say, by stage."""

    path: Path
    settings: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    rank: Mapping[str, Any] = field(default_factory=dict)
    tune: Mapping[str, Any] = field(default_factory=dict)
    prune: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()


def read_run(folder: Path) -> RunRecord:
    """Return what the run folder holds; stages that have not run are empty.

    Raises:
        UsageError: if `folder` is not a run folder.
        FileRefusedError: if one of its files is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"`{folder}` is not a folder. Give the run folder that `torchard fit` wrote.")
    if not (folder / "torchard.json").is_file():
        raise UsageError(
            f"`{folder}` is not a run folder: it holds no torchard.json. "
            "`torchard fit DATA --out RUN` makes one."
        )
    stages = {name: _read(folder / f"{name}.json") for name in STAGE_FILES}
    return RunRecord(
        folder, _read(folder / "torchard.json"), metrics=tuple(_metrics(folder / "metrics.jsonl")), **stages
    )


def number(value: Any, *path: str) -> float | None:
    """The finite number at `path`, or None."""
    found = _at(value, path)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    # An integer of a thousand digits is valid JSON and no float.
    if isinstance(found, int) and found.bit_length() > 1000:
        return None
    return float(found) if math.isfinite(found) else None


def text(value: Any, *path: str, default: str = "") -> str:
    """The string at `path`; numbers are written out, everything else is `default`."""
    found = _at(value, path)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return default
    return printable(str(found))


def mapping(value: Any, *path: str) -> dict[str, Any]:
    """The object at `path`, or an empty one."""
    found = _at(value, path)
    return dict(found) if isinstance(found, Mapping) else {}


def objects(value: Any, *path: str) -> list[dict[str, Any]]:
    """The objects in the list at `path`; other items are passed over."""
    found = _at(value, path)
    return [dict(item) for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def texts(value: Any, *path: str) -> list[str]:
    """The strings in the list at `path`; numbers are written out, other items are passed over."""
    found = _at(value, path)
    if not isinstance(found, list):
        return []
    return [printable(str(item)) for item in found if isinstance(item, str | int | float)]


def printable(name: str) -> str:
    """`name` with lone surrogates (bytes of a file name that were no UTF-8) spelt out, fit to be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    return dict(value) if isinstance(value, Mapping) else {}


def _metrics(path: Path) -> Iterator[Mapping[str, Any]]:
    """The whole lines of metrics.jsonl; a torn one (a killed run) or an overlong one is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for _ in range(_LINES):
            line = file.readline(_LINE_BYTES)
            if not line:
                return
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value
