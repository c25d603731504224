"""Transformed code as source, and as a code object compiled from that source's file."""

from types import CodeType

from torchard.compiler.decompile import decompile_code, equivalent, recompile
from torchard.compiler.dynamo.records import Entry, clean_names


def decompile_into(entry: Entry, code: CodeType) -> None:
    """Fill in the entry's source, with Dynamo's unique names shortened, and what is proved about it."""
    found = decompile_code(code)
    entry.code = code
    entry.source, entry.names = clean_names(found.source)
    entry.strategy, entry.equivalence = found.strategy, found.equivalence


def compiled_from(entry: Entry, path: str) -> CodeType | None:
    """Return the code object of the entry's source compiled from ``path``; None if it is not proved the
    same."""
    if entry.code is None or entry.equivalence == "unverified":
        return None
    twin = with_names(recompile(entry.source, entry.code, filename=path), entry.names)
    return twin if equivalent(entry.code, twin) else None


def with_names(code: CodeType, names: dict[str, str]) -> CodeType:
    """Return ``code`` with shortened names made unique again, in nested code too."""
    consts = tuple(
        with_names(const, names) if isinstance(const, CodeType) else const for const in code.co_consts
    )
    return code.replace(co_consts=consts, co_names=tuple(names.get(name, name) for name in code.co_names))
