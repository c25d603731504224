"""Give a recompiled code object what source cannot say: names, order of cells, constants without literals."""

import re
import sys
from types import CodeType
from typing import Any

from torchard.compiler.decompile.literals import Placeholders

_TEMPORARY_DEF = re.compile(r"_t\d+__(.+)_$")


def letters(name: str) -> str:
    """What of a name can stand in another name."""
    return re.sub("[^0-9A-Za-z_]", "", name)


def adopt(code: CodeType, like: CodeType, placeholders: Placeholders, shown: "dict[str, str]") -> CodeType:
    """Return ``code`` with the names, qualified names, constants and cell order of ``like``."""
    code = _nested(code, like, placeholders, shown)
    return order_cells(code, like)


def _nested(code: CodeType, like: CodeType, placeholders: Placeholders, shown: "dict[str, str]") -> CodeType:
    twins: "dict[str, list[CodeType]]" = {}
    for const in like.co_consts:
        if isinstance(const, CodeType):
            twins.setdefault(const.co_name, []).append(const)
    consts = tuple(_constant(const, twins, like, placeholders, shown) for const in code.co_consts)
    consts = _qualified(consts, like)
    changes: "dict[str, Any]" = {"co_name": like.co_name, "co_consts": consts}
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = like.co_qualname
    if shown:
        for field in ("co_varnames", "co_names", "co_cellvars", "co_freevars"):
            changes[field] = tuple(shown.get(one, one) for one in getattr(code, field))
    return code.replace(**changes)


def _constant(const: Any, twins: "dict[str, list[CodeType]]", like: CodeType, placeholders: Placeholders,
              shown: "dict[str, str]") -> Any:  # fmt: skip
    if isinstance(const, CodeType):
        own = const.co_name
        temporary = _TEMPORARY_DEF.match(own)
        if own not in twins and temporary:
            own = next((one for one in twins if letters(one) == temporary.group(1)), own)
        matches = twins.get(own)
        if not matches:
            return const
        twin = matches.pop(0) if len(matches) > 1 else matches[0]
        return _nested(const, twin, placeholders, shown)
    if isinstance(const, str):
        return placeholders.value(const)
    if isinstance(const, tuple):
        return tuple(_constant(item, twins, like, placeholders, shown) for item in const)
    return const


def _qualified(consts: "tuple[Any, ...]", like: CodeType) -> "tuple[Any, ...]":
    """A class body knows its qualified name as a constant, 3.9 and 3.10 know those of functions made too."""
    known = {
        text.rsplit(".", 1)[-1]: text
        for text in like.co_consts
        if isinstance(text, str) and ".<locals>." in text
    }
    if not known:
        return consts
    return tuple(
        known.get(const.rsplit(".", 1)[-1], const)
        if isinstance(const, str) and ".<locals>." in const
        else const
        for const in consts
    )


# -- order of cells


def order_cells(code: CodeType, like: CodeType) -> CodeType:
    """Put cell and free variables into the order of ``like``; callers fill them by position."""
    cells, frees = (
        _arranged(code.co_cellvars, like.co_cellvars),
        _arranged(code.co_freevars, like.co_freevars),
    )
    if cells == code.co_cellvars and frees == code.co_freevars:
        return code
    changed = code.replace(co_cellvars=cells, co_freevars=frees)
    before, after = _slots(code), _slots(changed)
    moves = {index: after.index(name) for index, name in enumerate(before)}
    return changed.replace(co_code=_move(code, moves))


def _arranged(own: "tuple[str, ...]", wanted: "tuple[str, ...]") -> "tuple[str, ...]":
    return tuple(sorted(own, key=lambda cell: wanted.index(cell) if cell in wanted else len(wanted)))


def _slots(code: CodeType) -> "list[str]":
    cells = list(code.co_cellvars) + list(code.co_freevars)
    if sys.version_info < (3, 11):
        return cells
    own = [cell for cell in code.co_cellvars if cell not in code.co_varnames]
    return [*code.co_varnames, *own, *code.co_freevars]


def _move(code: CodeType, moves: "dict[int, int]") -> bytes:
    """Rewrite the arguments of instructions that name cells."""
    import dis

    raw = bytearray(code.co_code)
    names = {
        "LOAD_FAST",
        "STORE_FAST",
        "DELETE_FAST",
        "LOAD_FAST_CHECK",
        "LOAD_FAST_AND_CLEAR",
        "LOAD_FAST_BORROW",
    }
    for instruction in dis.get_instructions(code):
        cell = instruction.opcode in dis.hasfree or (
            sys.version_info >= (3, 11) and instruction.opname in names
        )
        if cell and instruction.opname != "COPY_FREE_VARS":
            target = moves[instruction.arg or 0]
            if (instruction.arg or 0) > 255 or target > 255:
                raise ValueError("more than 255 variables: their cells cannot be put in another order")
            raw[instruction.offset + 1] = target
    return bytes(raw)
