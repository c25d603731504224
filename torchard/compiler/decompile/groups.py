"""``except*``: clauses that each take their part of an exception group, one after the other."""

import ast
from typing import Any

from torchard.compiler.decompile import protected
from torchard.compiler.decompile.graph import Block
from torchard.compiler.decompile.slots import Slot, Unstructured
from torchard.compiler.decompile.stack import Stack

_BEGINNINGS = (["Copy", "Build", "Swap"], ["Build", "Copy"])


def statement(
    s: Any, stack: Stack, node: Block, ctx: Any, body: Any, meeting: "Block | None", line: Any
) -> Any:
    """Write the statement; return where control goes on. ``body`` is its statements and where they end."""
    from torchard.compiler.decompile.structure import Context

    held = stack.slots[: node.succs[1].height - 1]
    clauses, last = _clauses(s, held, node.succs[1])
    done = Stack(s.scope, [*held, Slot("mark", data="previous"), Slot("mark", data="result")])
    region = ("clause", node.level + 1)
    stop = meeting if meeting is not None else ctx.stop
    end = s.sequence(done, last, Context(stop, ctx.header, ctx.follow, region), top=True)
    ending = protected.Clause(ast.ExceptHandler(None, None, []), done, end)
    after, orelse = protected.meet(s, stack, ctx, meeting, body, [ending])
    whole = ast.TryStar(body[0].out or [ast.Pass()], clauses, orelse, [])
    protected.append(stack, whole, line)
    stack.out.extend(done.out)  # a jump of the surrounding loop
    return after


def _clauses(s: Any, held: "list[Slot]", block: Block) -> "tuple[list[ast.ExceptHandler], Block]":
    """Read the clauses; return them and the block that all of them lead to where nothing is left to raise."""
    skip = next((1 + len(names) for names in _BEGINNINGS if _names(block, 1, 1 + len(names)) == names), 0)
    if not skip:
        raise Unstructured("a handler of exception groups of unknown form")
    found: "list[ast.ExceptHandler]" = []
    while _names(block, skip, skip + 1) != ["Append"]:
        clause, block, skip = _clause(s, held, block, skip)
        found.append(clause)
    s.done.add(block)
    if _names(block, skip, None) == ["Append"]:
        block, skip = block.succs[0], -1
        s.done.add(block)
    if _names(block, skip + 1, None) != ["PrepReraiseStar", "Copy", "Branch"]:
        raise Unstructured("a handler of exception groups of unknown form")
    follow, jump = block.succs
    nothing, again = (jump, follow) if block.ops[-1].arg == "none" else (follow, jump)
    s.done.update((again, *again.succs))
    return found, nothing


def _clause(s: Any, held: "list[Slot]", block: Block, skip: int) -> "tuple[ast.ExceptHandler, Block, int]":
    """Read one clause; return it, and the block and place of the next."""
    from torchard.compiler.decompile.structure import Context

    marks = [Slot("mark", data=what) for what in ("previous", "exception", "raised", "rest")]
    test = Stack(s.scope, [*held, *marks])
    kind, block = protected.computed(s, test, block, skip, ["MatchGroup", "Copy", "Branch"])
    follow, jump = block.succs
    matched, other = (follow, jump) if block.ops[-1].arg == "none" else (jump, follow)
    first = matched.ops[0] if matched.ops else None
    if first is None or first.name not in ("Store", "Pop") or _names(other, 0, 1) != ["Pop"]:
        raise Unstructured("a clause of exception groups of unknown form")
    if first.name == "Store":
        s.scope.note_store(*first.arg)
    s.done.add(other)
    after, place = (other.succs[0], 0) if len(other.ops) == 1 else (other, 1)
    # from 3.13 on, the operation behind the last clause may be there once for each way to it
    behind = other.succs[0] if _names(other, 1, None) == ["Append"] else after
    arm = Stack(s.scope, [*held, *marks])
    s.sequence(arm, matched, Context(behind, None, None, None), skip=1)
    title = first.arg[1] if first.name == "Store" else None
    return ast.ExceptHandler(kind, title, arm.out or [ast.Pass()]), after, place


def _names(block: Block, start: int, end: "int | None") -> "list[str]":
    return [op.name for op in block.ops[start:end]]
