"""Exception handlers of Python 3.9 and 3.10, which keep them on a block stack instead of in a table.

Operations come out in the form of 3.11: a handler begins with PushExc, an exception is one stack slot instead
of three (traceback, value, type), so is the one it replaces, and every operation knows the handler that
covers it.
"""

from typing import Any

from torchard.compiler.decompile.ops import EFFECTS, ENDS, Handler, Op

_HIDDEN = frozenset({"V", "T", "b", "pV", "pT", "pb"})
_REMOVED = frozenset({"SetupFinally", "SetupWith", "SetupAsyncWith", "PopBlock"})


def attach(ops: "list[Op]") -> "list[Op]":
    """Return the operations with handlers attached and the block stack gone."""
    states = _simulate(ops)
    result: "list[Op]" = []
    where: "list[int]" = []
    handlers: "dict[Any, Handler]" = {}
    entries = {block[1]: block for state in states if state for block in state[0] if block[0] == "setup"}
    for index, op in enumerate(ops):
        where.append(len(result))
        state = states[index]
        if state is None:
            op.name, op.arg, op.target = "Raise", 0, None  # unreachable: removed later
            result.append(op)
            continue
        handler = _covering(state, states, ops, handlers)
        fresh = _translate(op, state[1], ops, index)
        if index in entries and not _cleans(ops, index) and op.name != "EndAsyncFor":
            fresh = [_like(op, "PushExc", None), *fresh]
        for one in fresh:
            one.handler = handler
        result.extend(fresh)
    where.append(len(result))
    for op in result:
        if op.target is not None:
            op.target = where[op.target]
    for handler in handlers.values():
        handler.target = where[handler.target]
    return result


def _simulate(ops: "list[Op]") -> "list[Any]":
    """The block stack and the kinds of stack slots before each operation."""
    states: "list[Any]" = [None] * len(ops)
    work: "list[Any]" = [(0, (), ())]
    while work:
        index, blocks, stack = work.pop()
        while index < len(ops) and states[index] is None:
            states[index] = (blocks, stack)
            op = ops[index]
            name = op.name
            if name in ("SetupFinally", "SetupWith", "SetupAsyncWith"):
                blocks, stack = _setup(op, ops, blocks, stack, work)
            elif name == "PopBlock":
                blocks = blocks[:-1]
            else:
                if op.target is not None:
                    work.append((op.target, blocks, _after_jump(op, stack)))
                if name == "PopExc":
                    blocks = blocks[:-1]
                stack = _step(op, stack)
            if name in ENDS:
                break
            index += 1
    return states


def _setup(op: Op, ops: "list[Op]", blocks: Any, stack: Any, work: "list[Any]") -> Any:
    if op.name == "SetupWith":
        stack = (*stack[:-1], "x")
        depth, after = len(stack), (*stack, "v")
    elif op.name == "SetupAsyncWith":
        depth, after = len(stack) - 1, stack
    else:
        depth, after = len(stack), stack
    previous = ("pb", "pV", "pT") if _cleans(ops, op.target) else ("pB", "pV", "pT")
    work.append((op.target, (*blocks, ("handler",)), (*stack[:depth], *previous, "B", "V", "T")))
    return (*blocks, ("setup", op.target, depth)), after


def _cleans(ops: "list[Op]", index: int) -> bool:
    """``e = None; del e`` and up again: the compiler's clean-up of a named clause."""
    names = [op.name for op in ops[index : index + 4]]
    return names == ["Const", "Store", "Delete", "Reraise"] and ops[index].arg is None


def _after_jump(op: Op, stack: Any) -> Any:
    if op.name in ("Branch", "ForIter"):
        return stack[:-1]
    if op.name == "BranchMatch":
        return stack[:-2]
    return stack


def _step(op: Op, stack: Any) -> Any:
    name = op.name
    if name == "Copy":
        return (*stack, stack[-op.arg])
    if name == "Swap":
        slots = list(stack)
        slots[-op.arg], slots[-1] = slots[-1], slots[-op.arg]
        return tuple(slots)
    if name == "Method":
        return (*stack[:-1], "n", "v")
    if name == "Call":
        return (*stack[: -op.arg[0] - 2], "v")
    if name == "CallPlain":
        return (*stack[: -op.arg[0] - 1], "v")
    if name == "CallExPlain":
        return (*stack[: -(3 if op.arg else 2)], "v")
    if name in ("KwNames", "Jump"):
        return stack
    if name == "BeforeAsyncWith":
        return (*stack[:-1], "x", "v")
    if name in ("PopExc", "Reraise"):
        return stack[:-3]
    if name == "BranchMatch":
        return stack[:-2]
    if name == "EndAsyncFor":
        return stack[:-7]
    if name == "ForIter":
        return (*stack, "v")
    if name == "BranchKeep":
        return stack[:-1]
    if name == "Store" and stack and stack[-1] == "V":
        return (*stack[:-2], "b")
    if name == "MakeFunction":
        return (*stack[: -len(op.arg) - 2], "v")
    if name == "YieldFrom":
        return (*stack[:-2], "v")
    pops, pushes = EFFECTS[name](op.arg)
    return (*(stack[: len(stack) - pops] if pops else stack), *("v",) * pushes)


def _covering(
    state: Any, states: "list[Any]", ops: "list[Op]", handlers: "dict[Any, Handler]"
) -> "Handler | None":
    blocks, stack = state
    for block in reversed(blocks):
        if block[0] == "setup":
            _, target, depth = block
            visible = sum(kind not in _HIDDEN for kind in stack[:depth])
            return handlers.setdefault((target, visible), Handler(target, visible, False))
    return None


def _translate(op: Op, stack: Any, ops: "list[Op]", index: int) -> "list[Op]":
    """The operation on a stack where exceptions take one slot."""
    name = op.name
    if name == "SetupWith":
        return [_like(op, "EnterWith", False)]
    if name in _REMOVED:
        return []
    if name == "BeforeAsyncWith":
        return [_like(op, "EnterWith", True)]
    if name == "BranchMatch":
        branch = _like(op, "Branch", "false")
        branch.target = op.target
        return [_like(op, "Match", None), branch]
    if name in ("Copy", "Pop") and stack[-(op.arg or 1)] in _HIDDEN:
        return []
    if name == "Swap":
        return _translate_swap(op, stack)
    if name == "Copy":
        op.arg -= sum(kind in _HIDDEN for kind in stack[-op.arg :])
    elif name == "Const" and ops[index + 1 : index + 2] and ops[index + 1].name == "MakeFunction":
        return []  # a qualified name, which follows from where the source stands
    return [op]


def _translate_swap(op: Op, stack: Any) -> "list[Op]":
    places = list(range(-op.arg, 0))
    after = [places[-1], *places[1:-1], places[0]]
    visible = [place for place in places if stack[place] not in _HIDDEN]
    order = tuple(visible.index(place) for place in after if stack[place] not in _HIDDEN)
    if order == tuple(range(len(order))):
        return []
    if order == (len(order) - 1, *range(1, len(order) - 1), 0):
        return [_like(op, "Swap", len(order))]
    return [_like(op, "Permute", order)]


def _like(op: Op, name: str, arg: Any) -> Op:
    fresh = Op(name, arg)
    fresh.offset, fresh.line = op.offset, op.line
    return fresh
