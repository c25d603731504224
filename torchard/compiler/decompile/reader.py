"""Read a code object of the running Python into micro-operations with resolved jumps and handlers."""

import importlib
import opcode
import sys
from types import CodeType
from typing import Any

from torchard.compiler.decompile import blockstack
from torchard.compiler.decompile.ops import ENDS, Handler, Op, UnsupportedOpcode

VERSION = sys.version_info[:2]
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_CACHE = opcode.opmap.get("CACHE", -1)
_RELATIVE = frozenset(opcode.hasjrel)
_ABSOLUTE = frozenset(opcode.hasjabs)
_UNIT = 2 if VERSION >= (3, 10) else 1


def table() -> "dict[str, Any]":
    """Return the lowering of every opcode of the running Python, by name."""
    name = f"torchard.compiler.decompile.tables.py3{VERSION[1]}"
    try:
        return importlib.import_module(name).TABLE
    except ImportError:
        raise UnsupportedOpcode("(any)", sys.version.split()[0]) from None


def supported_opcodes() -> "set[str]":
    """Return the names of the opcodes the running Python's table lowers."""
    return set(table())


_LOWERINGS: "list[Any]" = []


def read(code: CodeType) -> "list[Op]":
    """Return the operations of ``code``, awaits folded; ``target`` is an index, ``handler`` set where one
    covers."""
    if not _LOWERINGS:
        lowerings = table()
        _LOWERINGS.extend(lowerings.get(opcode.opname[number]) for number in range(256))
    ops, start, _names = _lower(code)
    if VERSION >= (3, 11):
        _attach_table(code, ops, start)
    if VERSION >= (3, 13):
        _cover_branches(ops)
        _tell_values_from_cells(ops)
    for op in ops:
        if op.target is not None:
            op.target = start[op.target]
    for index, op in enumerate(ops):
        if op.name == "CallKw":
            _split_keywords(ops, index)
    if VERSION < (3, 11):
        ops = blockstack.attach(ops)
    return _fold_sends(ops)


class _Names:
    """What an instruction's argument refers to in one code object."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.cells = list(code.co_cellvars) + list(code.co_freevars)
        self.locals = list(code.co_varnames)
        if VERSION >= (3, 11):
            own = set(self.locals)
            self.locals += [cell for cell in code.co_cellvars if cell not in own]
            self.locals += code.co_freevars  # these have a place of their own even if a local has the name
            self.cells = self.locals
        self.closures = set(code.co_cellvars) | set(code.co_freevars) if VERSION >= (3, 13) else set()
        self.here = self.after = 0
        self.opcode = 0
        self.backward = False

    def fast(self, arg: int) -> "tuple[str, str]":
        name = self.locals[arg]
        return ("closure" if name in self.closures else "fast", name)

    def deref(self, arg: int) -> str:
        return self.cells[arg]

    def name(self, arg: int) -> str:
        return self.code.co_names[arg]

    def const(self, arg: int) -> Any:
        return self.code.co_consts[arg]

    def jump(self, arg: int) -> int:
        if self.opcode in _ABSOLUTE:
            return arg * _UNIT
        return self.after + (-arg if self.backward else arg) * _UNIT


def _lower(code: CodeType) -> "tuple[list[Op], dict[int, int], _Names]":
    names = _Names(code)
    raw = code.co_code
    lines = _lines(code)
    ops: list = []
    start: dict = {}
    extended = 0
    pending = 0  # offset of the first EXTENDED_ARG of the instruction being read
    size = len(raw)
    offset = 0
    backward = _BACKWARD
    line = None
    while offset < size:
        number = raw[offset]
        if number == _EXTENDED:
            if not extended:
                pending = offset
            extended = (extended | raw[offset + 1]) << 8
            offset += 2
            continue
        after = offset + 2
        while after < size and raw[after] == _CACHE:
            after += 2
        arg = extended | raw[offset + 1]
        first = pending if extended else offset
        for at in range(first, after, 2):
            start[at] = len(ops)
            line = lines.get(at, line)
        names.here, names.after, names.opcode, names.backward = offset, after, number, number in backward
        lowering = _LOWERINGS[number]
        if lowering is None:
            raise UnsupportedOpcode(opcode.opname[number], sys.version.split()[0])
        for op in lowering(names, arg):
            op.offset = offset
            op.line = line
            ops.append(op)
        extended = 0
        offset = after
    start[size] = len(ops)
    return ops, start, names


_BACKWARD = frozenset(number for name, number in opcode.opmap.items() if "BACKWARD" in name)


def _lines(code: CodeType) -> "dict[int, Any]":
    if VERSION >= (3, 10):
        return {start: line for start, _, line in code.co_lines() if line is not None}
    import dis

    return dict(dis.findlinestarts(code))


def _attach_table(code: CodeType, ops: "list[Op]", start: "dict[int, int]") -> None:
    rows = exception_table(code)
    if not rows:
        return
    position = 0
    for begin, end, target, depth, lasti in rows:
        handler = Handler(start[target], depth, lasti)
        while position < len(ops) and ops[position].offset < begin:
            position += 1
        while position < len(ops) and ops[position].offset < end:
            ops[position].handler = handler
            position += 1


def _cover_branches(ops: "list[Op]") -> None:
    """A branch on a bool cannot fail, so the table leaves it out: it belongs where the test before it
    does."""
    for before, op in zip(ops, ops[1:]):
        if op.name == "Branch" and op.handler is None and before.name not in ENDS:
            op.handler = before.handler


def _tell_values_from_cells(ops: "list[Op]") -> None:
    """A fast load of a variable that is a cell pushes the cell. Not so in an inlined comprehension that has
    a variable of that name: there the place holds its value, and only a new function takes a cell."""
    cleared = {op.arg[1] for op in ops if op.name == "LoadClear"}
    if not cleared:
        return
    for index, op in enumerate(ops):
        named = op.name in ("Load", "Store", "LoadClear") and op.arg[0] == "closure" and op.arg[1] in cleared
        if named and not (op.name == "Load" and _taken_by_function(ops, index)):
            op.arg = ("fast", op.arg[1])


def _taken_by_function(ops: "list[Op]", index: int) -> bool:
    """Does a tuple of cells begin or go on here, for the function made next?"""
    while index < len(ops) and ops[index].name == "Load" and ops[index].arg[0] == "closure":
        index += 1
    names = [op.name for op in ops[index : index + 2]]
    return (
        names == ["Build", "Const"]
        and ops[index].arg[0] == "tuple"
        and isinstance(ops[index + 1].arg, CodeType)
    )


def exception_table(code: CodeType) -> "list[tuple[int, int, int, int, bool]]":
    """Return (start, end, target, depth, lasti) rows, offsets in bytes (format: Python 3.11 and later)."""
    numbers = iter(getattr(code, "co_exceptiontable", b""))
    rows = []
    for byte in numbers:
        begin = _varint(byte, numbers) * 2
        length = _varint(next(numbers), numbers) * 2
        target = _varint(next(numbers), numbers) * 2
        depth_lasti = _varint(next(numbers), numbers)
        rows.append((begin, begin + length, target, depth_lasti >> 1, bool(depth_lasti & 1)))
    return rows


def _varint(byte: int, numbers: Any) -> int:
    value = byte & 63
    while byte & 64:
        byte = next(numbers)
        value = value << 6 | byte & 63
    return value


_WAITERS = {"GetAwaitable": "Await", "GetYieldFromIter": "YieldFrom", "GetAnext": "AsyncForIter"}


def _fold_sends(ops: "list[Op]") -> "list[Op]":
    """Make one operation of each await, ``yield from``, step of ``async for``, and exhausted ``for``."""
    dead: set = set()
    for index, op in enumerate(ops):
        name = op.name
        if name in ("Send", "YieldFrom"):
            if index < 2 or ops[index - 2].name not in _WAITERS:
                raise UnsupportedOpcode("SEND outside await", sys.version.split()[0])
            _fold_send(ops, index, dead)
        elif name == "ForIter":
            op.target = _after_loop(ops, op.target)
        elif name == "Special" and op.arg & 1:
            _fold_enter(ops, index, dead)
        elif name == "Generator":
            dead.update((index, index + 1))
    return drop(ops, dead) if dead else ops


def _fold_enter(ops: "list[Op]", index: int, dead: "set[int]") -> None:
    """``COPY; LOAD_SPECIAL __exit__; SWAP; SWAP; LOAD_SPECIAL __enter__; CALL`` (3.14) enters a context."""
    names = [op.name for op in ops[index - 1 : index + 5]]
    if names != ["Copy", "Special", "Swap", "Swap", "Special", "Call"]:
        raise UnsupportedOpcode("LOAD_SPECIAL outside with", sys.version.split()[0])
    enter = ops[index + 4]
    enter.name, enter.arg = "EnterWith", ops[index].arg == 3
    dead.update(range(index - 1, index + 4))


def _split_keywords(ops: "list[Op]", index: int) -> None:
    """Keyword names that lie on the stack (all but 3.11 and 3.12) become part of the call."""
    names = ops[index - 1]
    if names.name != "Const" or not isinstance(names.arg, tuple):
        raise UnsupportedOpcode("CALL_KW with computed names", sys.version.split()[0])
    names.name = "KwNames"
    ops[index].name, ops[index].arg = "Call" if VERSION >= (3, 11) else "CallPlain", (ops[index].arg, ())


def _fold_send(ops: "list[Op]", index: int, dead: "set[int]") -> None:
    op, waiter = ops[index], ops[index - 2]
    dead.update((index - 1, index))
    if op.name == "Send":
        dead.update((index + 1, index + 2))
        if ops[index + 3].name == "CleanupThrow":
            dead.add(index + 3)
        if ops[op.target].name == "EndSend":
            dead.add(op.target)
    waiter.name = _WAITERS[waiter.name]
    waiter.arg = None
    if waiter.name == "AsyncForIter":
        end = ops[index - 2].handler.target
        while ops[end].name == "CleanupThrow":
            end += 1
        waiter.target = end + 1
        waiter.handler = ops[end].handler


def _after_loop(ops: "list[Op]", target: int) -> int:
    """The iterator of an exhausted loop is popped by END_FOR and what belongs to it (3.12 and later)."""
    if target < len(ops) and ops[target].name == "EndFor":
        return target + 1 + (ops[target].arg == 1)
    return target


def drop(ops: "list[Op]", dead: "set[int]") -> "list[Op]":
    """Return ``ops`` without the indices in ``dead``; jumps to them go to what follows."""
    where = []
    kept: "list[Op]" = []
    for index, op in enumerate(ops):
        where.append(len(kept))
        if index not in dead:
            kept.append(op)
    where.append(len(kept))
    seen = set()
    for op in kept:
        if op.target is not None:
            op.target = where[op.target]
        handler = op.handler
        if handler is not None and id(handler) not in seen:
            seen.add(id(handler))
            handler.target = where[handler.target]
    return kept
