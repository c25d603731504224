"""Two operation graphs walked in step: success proves that they are the same program."""

from typing import Any

from torchard.compiler.decompile.ops import ENDS, Op

NEGATED = {"in": "not in", "not in": "in", "is": "is not", "is not": "is"}
HARMLESS = frozenset({"Const", "Copy", "Swap", "Permute", "Pop", "PushExc", "PopExc", "Jump"})


def difference(a: "list[Op]", b: "list[Op]", keys: Any) -> "str | None":
    """Return None if every way through ``a`` is a way through ``b`` with equal operations, else the first
    difference.

    Jumps, block layout, duplicated blocks and the sense of a branch do not count. ``keys`` gives the key of a
    constant of either side.
    """
    seen: set = set()
    todo = [(0, 0)]
    while todo:
        pair = (settle(a, todo[-1][0]), settle(b, todo[-1][1]))
        todo.pop()
        if pair in seen:
            continue
        seen.add(pair)
        found = _compare(a, b, pair, keys, todo)
        if found:
            return found
    return None


def settle(ops: "list[Op]", index: int) -> int:
    """Return where control arrives from ``index`` by jumps alone."""
    steps = 0
    while ops[index].name == "Jump" and steps < len(ops):
        index = ops[index].target
        steps += 1
    return index


def branch(ops: "list[Op]", index: int) -> "tuple[str, int, int, bool, bool]":
    """Return (test, yes, no, value kept at yes, value kept at no); a kept value tested again at once is
    followed."""
    op = ops[index]
    follow, jump = settle(ops, index + 1), settle(ops, op.target)
    test, keep = op.arg, op.name == "BranchKeep"
    steps = 0
    while (
        keep
        and ops[jump].name in ("BranchKeep", "Branch")
        and ops[jump].arg in ("true", "false")
        and steps < 99
    ):
        again = ops[jump]
        if again.arg == test:
            keep, jump = again.name == "BranchKeep", settle(ops, again.target)
        else:
            keep, jump = False, settle(ops, jump + 1)
        steps += 1
    if test in ("true", "none"):
        return test, jump, follow, keep, False
    return ("true" if test == "false" else "none"), follow, jump, False, keep


def _compare(
    a: "list[Op]", b: "list[Op]", pair: "tuple[int, int]", keys: Any, todo: "list[Any]"
) -> "str | None":
    i, j = pair
    one, two = a[i], b[j]
    if one.name in ("Branch", "BranchKeep") and two.name in ("Branch", "BranchKeep"):
        if not _same_handler(one, two, todo):
            return _tell(i, one, two, "protected differently")
        first, second = branch(a, i), branch(b, j)
        if first[0] != second[0] or first[3:] != second[3:]:
            return _tell(i, one, two, "other test")
        todo.append((first[1], second[1]))
        todo.append((first[2], second[2]))
        return None
    if one.name != two.name:
        return _tell(i, one, two, "other operation")
    if one.name == "Const":
        if keys(one.arg) != keys(two.arg):
            return _tell(i, one, two, "other constant")
    elif one.arg != two.arg and one.name != "BranchMatch":
        if one.name == "Compare" and NEGATED.get(one.arg) == two.arg:
            return _inverted(a, b, pair, todo)
        return _tell(i, one, two, "other argument")
    if one.name not in HARMLESS and not _same_handler(one, two, todo):
        return _tell(i, one, two, "protected differently")
    if one.target is not None:
        todo.append((one.target, two.target))
    if one.name not in ENDS:
        todo.append((i + 1, j + 1))
    return None


def _inverted(a: "list[Op]", b: "list[Op]", pair: "tuple[int, int]", todo: "list[Any]") -> "str | None":
    """``x in y`` and ``x not in y`` with swapped targets: both give a bool, whatever the container
    answers."""
    i, j = settle(a, pair[0] + 1), settle(b, pair[1] + 1)
    one, two = a[pair[0]], b[pair[1]]
    tests = (
        a[i].name == b[j].name == "Branch" and a[i].arg in ("true", "false") and b[j].arg in ("true", "false")
    )
    if not tests or not _same_handler(one, two, todo) or not _same_handler(a[i], b[j], todo):
        return _tell(pair[0], one, two, "other argument")
    first, second = branch(a, i), branch(b, j)
    todo.append((first[1], second[2]))
    todo.append((first[2], second[1]))
    return None


def _same_handler(one: Op, two: Op, todo: "list[Any]") -> bool:
    first, second = one.handler, two.handler
    if first is None or second is None:
        return first is second
    if first.depth != second.depth or first.lasti != second.lasti:
        return False
    todo.append((first.target, second.target))
    return True


def _tell(index: int, one: Op, two: Op, what: str) -> str:
    line = f" (line {one.line})" if one.line is not None else ""
    return f"operation {index}{line}: {what}: {one!r} / {two!r}"
