"""Judge the header of a safetensors file before anything is read or allocated on its word."""

import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from torchard.core.errors import FileRefusedError
from torchard.core.files import open_regular, parse_json, quote

MAX_HEADER = 100_000_000  # the format's own limit

# Bytes per element. Types below a byte are left out: torch has no ordinary tensors of them.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header tells it: element type, shape, and where its bytes lie among the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a sound header says: tensors by name, in the order of their bytes, and the metadata."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Return the header of ``path``, with every promise in it checked against the file's size.

    The data fill the file without hole, overlap or rest; names are unique; shapes, types and lengths agree.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: in one line, for anything else.
    """
    source = quote(path)
    with open_regular(path) as file:
        text, rest = _text(file, source)
    if not text.startswith(b"{"):
        raise FileRefusedError(f"{source} is refused: no safetensors file, its header opens without a brace.")
    value = parse_json(text, source=f"The header of {source}", max_depth=3)
    metadata = _metadata(value.pop("__metadata__", {}), source)
    entries = {name: _entry(name, item, source) for name, item in value.items()}
    ordered = dict(sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].stop)))
    _check_cover(ordered, rest, source)
    return Header(ordered, metadata)


def _text(file: BinaryIO, source: str) -> tuple[bytes, int]:
    """The header's bytes, and how many bytes of data follow it."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise FileRefusedError(f"{source} is refused: {size} bytes are too few for a safetensors file.")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise FileRefusedError(f"{source} is refused: a header of {length:,} bytes is over {MAX_HEADER:,}.")
    if 8 + length > size:
        raise FileRefusedError(
            f"{source} is cut short: {size:,} bytes, the header alone ends at {8 + length:,}."
        )
    return file.read(length), size - 8 - length


def _metadata(value: Any, source: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FileRefusedError(f"{source} is refused: its metadata are not text under names.")
    return value


def _entry(name: str, item: Any, source: str) -> Entry:
    where = f"{source} is refused: tensor {quote(name)}"
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise FileRefusedError(f"{where} must have dtype, shape and data_offsets, nothing else.")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FileRefusedError(f"{where} has the unknown type {quote(dtype)}.")
    if not _is_naturals(shape) or len(shape) > 64:
        raise FileRefusedError(f"{where} has the shape {quote(shape)}, not a list of sizes.")
    if not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileRefusedError(f"{where} has the data_offsets {quote(offsets)}, not [start, stop].")
    needed, told = prod(shape) * ITEM_BYTES[dtype], offsets[1] - offsets[0]
    if needed != told:
        raise FileRefusedError(f"{where} of shape {quote(shape)} needs {needed:,} bytes, has {told:,}.")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_naturals(value: Any) -> bool:
    """A list of ints from 0 to 2⁶³ − 1; ``True`` is no number here."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_cover(ordered: dict[str, Entry], size: int, source: str) -> None:
    end = 0
    for name, entry in ordered.items():
        if entry.start != end:
            kind = "overlaps the one before it" if entry.start < end else "leaves a hole before it"
            raise FileRefusedError(
                f"{source} is refused: tensor {quote(name)} {kind}, at byte {entry.start:,}."
            )
        end = entry.stop
    if end > size:
        raise FileRefusedError(f"{source} is cut short: {end:,} bytes of data promised, {size:,} there.")
    if end < size:
        raise FileRefusedError(f"{source} is refused: {size - end:,} bytes after the last tensor.")
