"""A CSV file of image paths and labels."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath

from torchard.core.data.assemble import PART_NAMES, Candidates, assemble
from torchard.core.data.manifest import scan_files
from torchard.core.data.split import FileImages
from torchard.core.data.task import Metric, Task
from torchard.core.errors import DataError, FileRefusedError, UsageError
from torchard.core.files import confine, one_line, quote

COLUMNS = ("path", "label", "group", "split")
REQUIRED = ("path", "label")
NO_LABEL = frozenset({"", "nan", "<na>"})
MAX_LINE = 64 << 10


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``number`` counts lines of the file from 1, the head included."""

    number: int
    path: str
    file: Path
    label: str
    group: str | None
    part: str | None


def load_table(
    file: Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    strict: bool = False,
    metric: Metric | None = None,
    cache: Path | None = None,
) -> Task:
    """Return the task of a CSV with the columns path and label, and if wanted group and split.

    UTF-8, with commas or semicolons. Paths are relative to the CSV's folder, or to ``root``, and stay inside
    it. Groups are reported on, and keep their shares in carved splits.

    Raises:
        UsageError: if the file or ``root`` is missing or unreadable.
        DataError: naming the row, if one is wrong; or if there is nothing to learn.
    """
    rows = read_rows(file, root or file.parent)
    paths = [row.file for row in rows]
    candidates = Candidates(
        images=FileImages(paths),
        names=[row.path for row in rows],
        labels=[row.label for row in rows],
        parts=[row.part or "train" for row in rows],
        groups=[row.group or "(none)" for row in rows] if rows and rows[0].group is not None else None,
        paths=paths,
    )
    return assemble(
        candidates,
        scan_files(paths, cache=cache),
        name=file.stem,
        spec=str(file),
        seed=seed,
        strict=strict,
        metric=metric,
    )


def read_rows(file: Path, root: Path) -> list[Row]:
    """Return the table's rows, each checked.

    Raises:
        UsageError: if the file or ``root`` is missing or unreadable.
        DataError: naming the row, for a missing column, a path listed twice, absolute, a URL or leading out
            of
            ``root``, a missing label, an unknown split, a line beyond 64 KiB, or text that is no UTF-8.
    """
    if not root.is_dir():
        raise UsageError(f"`root={quote(root)}` is no folder; give the folder the CSV's paths start from")
    try:
        with open(file, "rb") as stream:
            return list(_rows(stream, file.name, root))
    except OSError as error:
        raise UsageError(f"{quote(file)} cannot be read: {error.strerror}") from None


def _rows(stream: BufferedReader, source: str, root: Path) -> Iterator[Row]:
    seen: dict[Path, int] = {}
    columns: dict[str, int] | None = None
    width = 0
    for number, cells in _records(stream, source):
        if columns is None:
            columns, width = _head(cells, source, number), len(cells)
            continue
        if len(cells) != width:
            raise _wrong(source, number, f"{len(cells)} values where the head names {width}")
        row = _row({name: cells[place].strip() for name, place in columns.items()}, source, number, root)
        if row.file in seen:
            raise _wrong(source, number, f"{quote(row.path)} is listed already in row {seen[row.file]}")
        seen[row.file] = number
        yield row
    if columns is None:
        raise DataError(f"{quote(source)} is empty; the first line must name the columns path and label")


def _records(stream: BufferedReader, source: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells; blank lines are left out."""
    lines = _lines(stream, source)
    first = next(lines, "")
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _wrong(source, reader.line_num, one_line(error)) from None
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _lines(stream: BufferedReader, source: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _wrong(source, number, f"the line is longer than {MAX_LINE:,} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _wrong(source, number, "the text is no UTF-8; save the table as UTF-8") from None
        if "\0" in text:
            raise _wrong(source, number, "the text holds a zero byte; save the table as UTF-8")
        yield text


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _head(cells: list[str], source: str, number: int) -> dict[str, int]:
    names = [cell.strip().casefold() for cell in cells]
    for column in REQUIRED:
        if column not in names:
            found = ", ".join(quote(cell) for cell in cells[:10])
            raise _wrong(source, number, f"column {column} is missing; the head names {found}")
    twice = [column for column in COLUMNS if names.count(column) > 1]
    if twice:
        raise _wrong(source, number, f"column {twice[0]} is named twice")
    return {column: names.index(column) for column in COLUMNS if column in names}


def _row(cells: dict[str, str], source: str, number: int, root: Path) -> Row:
    label, part = cells["label"], cells.get("split")
    if label.casefold() in NO_LABEL:
        raise _wrong(source, number, f"the label is missing ({quote(label)})")
    if part is not None and part.casefold() not in PART_NAMES:
        raise _wrong(source, number, f"split {quote(part)} is unknown; choose train, validation or test")
    return Row(
        number=number,
        path=cells["path"],
        file=_inside(cells["path"], source, number, root),
        label=label,
        group=cells.get("group"),
        part=None if part is None else PART_NAMES[part.casefold()],
    )


def _inside(path: str, source: str, number: int, root: Path) -> Path:
    if not path:
        raise _wrong(source, number, "the path is missing")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|data:|file:", path):
        raise _wrong(source, number, f"{quote(path)} is a URL; download the images and give relative paths")
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        raise _wrong(source, number, f"{quote(path)} is absolute; give paths relative to {quote(root)}")
    if ".." in PureWindowsPath(path).parts:  # these are parted at slashes too
        raise _wrong(source, number, f"{quote(path)} has '..'; give paths inside {quote(root)}")
    try:
        return confine(root, path)
    except FileRefusedError as error:
        raise _wrong(source, number, one_line(error)) from None


def _wrong(source: str, number: int, what: str) -> DataError:
    return DataError(f"{quote(source)}, row {number}: {what}")
