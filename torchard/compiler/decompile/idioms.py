"""Sequences that are one thing: a kept test, a link of a chained comparison. Folded before blocks are cut."""

from typing import Any

from torchard.compiler.decompile.flow import Flow
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.reader import drop


def fold(flow: Flow) -> Flow:
    """Return the flow with idioms as single operations."""
    ops = flow.ops
    targets = {op.target for op in ops if op.target is not None}
    stacks = list(flow.stacks)
    dead: "set[int]" = set()
    index = 0
    while index < len(ops) - 2:
        size = (
            _generator_shortcut(ops, index, dead)
            or _link(ops, index, targets, dead)
            or _kept(ops, index, targets, dead)
        )
        for place in range(index, index + size):
            if place not in dead:
                stacks[place] = flow.stacks[index]  # whole sequences act on the stack before them
        index += size or 1
    if not dead:
        return flow
    return Flow(drop(ops, dead), [stack for index, stack in enumerate(stacks) if index not in dead])


def _generator_shortcut(ops: "list[Op]", index: int, dead: "set[int]") -> int:
    """``all(...)``, ``any(...)``, ``tuple(...)`` over a generator expression are written twice in 3.14: a
    loop for the builtin itself, and the plain call. Only the call is followed; compiling it makes both
    again."""
    names = [op.name for op in ops[index : index + 4]]
    if names != ["Copy", "Common", "Compare", "Branch"] or ops[index + 2].arg != "is":
        return 0
    branch = ops[index + 3]
    if branch.arg != "false":
        return 0
    branch.name, branch.arg = "Jump", None
    dead.update(range(index, index + 3))
    return 4


def _link(ops: "list[Op]", index: int, targets: "set[Any]", dead: "set[int]") -> int:
    """``SWAP 2; COPY 2; compare`` (``DUP_TOP; ROT_THREE; compare`` up to 3.10)."""
    names = [(op.name, op.arg) for op in ops[index : index + 4]]
    if names[:2] == [("Swap", 2), ("Copy", 2)] and names[2][0] == "Compare":
        size = 3
    elif names[:3] == [("Copy", 1), ("Swap", 3), ("Swap", 2)] and len(names) > 3 and names[3][0] == "Compare":
        size = 4
    else:
        return 0
    if any(place in targets for place in range(index + 1, index + size)):
        return 0
    last = ops[index + size - 1]
    last.name = "ChainLink"
    dead.update(range(index, index + size - 1))
    return size


def _kept(ops: "list[Op]", index: int, targets: "set[Any]", dead: "set[int]") -> int:
    """``COPY 1; branch; POP_TOP``: a test whose value stays if it jumps (3.12 and later)."""
    copy, branch, pop = ops[index : index + 3]
    if copy.name != "Copy" or copy.arg != 1 or branch.name != "Branch" or pop.name != "Pop":
        return 0
    if branch.arg not in ("true", "false") or index + 1 in targets or index + 2 in targets:
        return 0
    branch.name = "BranchKeep"
    dead.update((index, index + 2))
    return 3
