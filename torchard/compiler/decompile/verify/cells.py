"""A cell as a value has no syntax but ``(lambda: x).__closure__[0]``: read that as the cell."""

from types import CodeType
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.reader import drop, read

_SHAPES = (
    ["Load", "Build", "Const", "MakeFunction", "Attr", "Const", "Subscr"],
    ["Load", "Build", "Const", "MakeFunction", "FunctionPart", "Attr", "Const", "Subscr"],
    ["Load", "Build", "Const", "Const", "MakeFunction", "Attr", "Const", "Subscr"],
)


def fold_cells(ops: "list[Op]") -> "list[Op]":
    """Return ``ops`` with every such read as one load of the cell."""
    dead: "set[int]" = set()
    targets = {op.target for op in ops if op.target is not None}
    for index in range(len(ops) - 6):
        if ops[index].name != "Load" or ops[index].arg[0] != "closure":
            continue
        for shape in _SHAPES:
            if _is_read(ops, index, shape, targets):
                dead.update(range(index + 1, index + len(shape)))
    return drop(ops, dead) if dead else ops


def _is_read(ops: "list[Op]", index: int, shape: "list[str]", targets: "set[Any]") -> bool:
    part = ops[index : index + len(shape)]
    if [op.name for op in part] != shape or any(
        place in targets for place in range(index + 1, index + len(shape))
    ):
        return False
    cell, code = part[0].arg, part[2].arg
    plain = (
        cell[0] == "closure"
        and part[1].arg == ("tuple", 1)
        and part[-3].arg == "__closure__"
        and part[-2].arg == 0
    )
    return plain and isinstance(code, CodeType) and _returns(code, cell[1])


def _returns(code: CodeType, cell: str) -> bool:
    names = [(op.name, op.arg) for op in read(code)]
    return names == [("Load", ("deref", cell)), ("Return", None)] and code.co_freevars == (cell,)
