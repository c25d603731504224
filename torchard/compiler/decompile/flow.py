"""Clean operations: reachable ones only, NULLs gone, calls and context exits in one form, depths known."""

import sys
from typing import Any

from torchard.compiler.decompile.ops import EFFECTS, ENDS, Handler, Op
from torchard.compiler.decompile.reader import drop

VALUE, NULL, EXIT, SELF = "v", "n", "x", "s"
LASTI, EXCEPTION, PREVIOUS, CLEARED = "l", "e", "p", "c"


WIDE_EXIT = sys.version_info >= (3, 14)  # the exit method and its self, which may as well be no value


class Malformed(ValueError):
    """The stack does not balance: bytecode no compiler writes."""


class Flow:
    """``ops`` and, beside each, the kinds of the stack slots before it runs (bottom first)."""

    def __init__(self, ops: "list[Op]", stacks: "list[tuple[str, ...]]") -> None:
        self.ops = ops
        self.stacks = stacks


def clean(ops: "list[Op]") -> Flow:
    """Run ``ops`` on kinds of values, then rewrite them without NULLs; unreachable operations are left out.

    Raises:
        Malformed: if the stack underflows or two ways meet at different depths.
    """
    stacks = _simulate(ops)
    dead = {index for index, stack in enumerate(stacks) if stack is None}
    handlers: dict = {}
    for index, op in enumerate(ops):
        stack = stacks[index]
        if stack is None:
            continue
        _rewrite(ops, index, stack, dead)
        if op.handler is not None:
            op.handler = _without_nulls(op.handler, stack, handlers)
    living = [index for index in range(len(ops)) if index not in dead]
    kept = [_visible(stacks[index] or ()) for index in living]
    kept = [stack[:-3] if ops[index].name == "ExitWith" else stack for index, stack in zip(living, kept)]
    return Flow(drop(ops, dead), kept)


def _simulate(ops: "list[Op]") -> "list[Any]":
    stacks: list = [None] * len(ops)
    work: list = [(0, ())]
    while work:
        index, stack = work.pop()
        while True:
            if index >= len(ops):
                raise Malformed("control runs past the end of the code")
            known = stacks[index]
            if known is not None:
                if len(known) != len(stack):
                    raise Malformed(
                        f"two ways meet at operation {index} with stacks of {len(known)} and {len(stack)}"
                    )
                break
            stacks[index] = stack
            op = ops[index]
            handler = op.handler
            if handler is not None and stacks[handler.target] is None:
                lasti = (LASTI,) if handler.lasti else ()
                work.append((handler.target, stack[: handler.depth] + lasti + (EXCEPTION,)))
            name = op.name
            if op.target is not None:
                work.append((op.target, _jumped(op, stack)))
            if name in ENDS:
                break
            stack = step(op, stack)
            index += 1
    return stacks


def _jumped(op: Op, stack: "tuple[str, ...]") -> "tuple[str, ...]":
    if op.name in ("Branch", "ForIter", "AsyncForIter"):
        return stack[:-1]
    return stack


def step(op: Op, stack: "tuple[str, ...]") -> "tuple[str, ...]":
    """Return the kinds on the stack after ``op`` ran on ``stack`` and did not jump."""
    name = op.name
    if name == "Copy":
        _need(stack, op.arg)
        return stack + (stack[-op.arg],)
    if name == "Swap":
        _need(stack, op.arg)
        slots = list(stack)
        slots[-op.arg], slots[-1] = slots[-1], slots[-op.arg]
        return tuple(slots)
    if name in ("ForIter", "AsyncForIter"):
        return stack + (VALUE,)
    if name == "BranchKeep":
        return stack[:-1]
    if name == "KwNames":
        return stack
    if name == "Null":
        return stack + (NULL,)
    if name == "EnterWith":
        return stack[:-1] + ((EXIT, NULL, VALUE) if WIDE_EXIT else (EXIT, VALUE))
    if name == "PushExc":
        return stack[:-1] + (PREVIOUS, EXCEPTION)
    if name == "LoadClear":
        return stack + (CLEARED,)
    if name in ("Method", "SuperMethod"):
        return stack[: -EFFECTS[name](op.arg)[0]] + (NULL, VALUE)
    if name == "Call":
        _need(stack, op.arg[0] + 2)
        return stack[: -op.arg[0] - 2] + (VALUE,)
    if name == "CallPlain":
        _need(stack, op.arg[0] + 1)
        return stack[: -op.arg[0] - 1] + (VALUE,)
    if name == "CallExPlain":
        return stack[: -(3 if op.arg else 2)] + (VALUE,)
    if name == "CallEx":
        return stack[: -(4 if op.arg else 3)] + (VALUE,)
    pops, pushes = EFFECTS[name](op.arg)
    _need(stack, pops)
    return (stack[:-pops] if pops else stack) + (VALUE,) * pushes


def _need(stack: "tuple[str, ...]", count: int) -> None:
    if len(stack) < count:
        raise Malformed(f"an operation takes {count} values from a stack of {len(stack)}")


def _rewrite(ops: "list[Op]", index: int, stack: "tuple[str, ...]", dead: "set[int]") -> None:
    op = ops[index]
    name = op.name
    if name == "Null" or (name == "Pop" and stack[-1] == NULL):
        dead.add(index)
    elif name == "CallEx" and stack[-1] == NULL:
        op.arg = False
    elif name == "KwNames":
        dead.add(index)
        follower = index + 1
        while ops[follower].name not in ("Call", "CallPlain"):
            follower += 1
        ops[follower].arg = (ops[follower].arg[0], op.arg)
    elif name == "Swap" and NULL in (stack[-1], stack[-op.arg]):
        _rewrite_null_swap(op, stack, dead, index)
    elif name in ("Copy", "Swap"):
        op.arg -= stack[-op.arg :].count(NULL)
    elif name == "Build" and op.arg == ("tuple", 0):
        op.name, op.arg = "Const", ()
    elif name == "Method":
        op.name = "Attr"
    elif name == "SuperMethod":
        op.name = "SuperAttr"
    elif name == "EnterWith" and op.arg and ops[index + 1].name == "Await":
        dead.add(index + 1)
    elif name == "Store" and op.arg == ("name", "__firstlineno__") and ops[index - 1].name == "Const":
        dead.update((index - 1, index))  # a class body's line number: no two sources agree on it
    elif name == "CallPlain":
        op.name = "Call"
        if stack[-op.arg[0] - 1] == EXIT and _nones(ops, index, 3):
            _rewrite_exit(ops, index, dead)
    elif name == "CallExPlain":
        op.name = "CallEx"
    elif name == "Call":
        _rewrite_call(ops, index, stack, dead)


def _rewrite_null_swap(op: Op, stack: "tuple[str, ...]", dead: "set[int]", index: int) -> None:
    """A swap with a NULL moves the other value past those between: an order of the visible slots."""
    places = list(range(-op.arg, 0))
    after = [places[-1], *places[1:-1], places[0]] if op.arg > 1 else places
    visible = [place for place in places if stack[place] != NULL]
    order = tuple(visible.index(place) for place in after if stack[place] != NULL)
    if order == tuple(range(len(order))):
        dead.add(index)
    op.name, op.arg = "Permute", order


def _rewrite_call(ops: "list[Op]", index: int, stack: "tuple[str, ...]", dead: "set[int]") -> None:
    op = ops[index]
    count, keywords = op.arg
    callee = stack[-count - 2 : -count] if count else stack[-2:]
    if EXIT in callee and _nones(ops, index, 3):
        _rewrite_exit(ops, index, dead)
    elif NULL not in callee:
        op.arg = (count + 1, keywords)


def _nones(ops: "list[Op]", index: int, count: int) -> bool:
    first, *rest = ops[index - count : index]
    if first.name != "Const" or first.arg is not None:
        return False
    return all((op.name == "Const" and op.arg is None) or (op.name == "Copy" and op.arg == 1) for op in rest)


def _rewrite_exit(ops: "list[Op]", index: int, dead: "set[int]") -> None:
    """The call of a context's exit with three Nones, awaited or not, and the pop of its result."""
    dead.update(range(index - 3, index))
    op = ops[index]
    op.name, op.arg = "ExitWith", False
    follower = index + 1
    if ops[follower].name == "Await":
        op.arg = True
        dead.add(follower)
        follower += 1
    if ops[follower].name != "Pop":
        raise Malformed("the result of a context manager's exit is used")
    dead.add(follower)


def _visible(stack: "tuple[str, ...]") -> "tuple[str, ...]":
    return tuple(kind for kind in stack if kind != NULL) if NULL in stack else stack


def _without_nulls(handler: Handler, stack: "tuple[str, ...]", handlers: "dict[Any, Handler]") -> Handler:
    nulls = stack[: handler.depth].count(NULL)
    if not nulls:
        return handlers.setdefault((id(handler), 0), handler)
    key = (handler.target, handler.depth - nulls)
    return handlers.setdefault(key, Handler(handler.target, handler.depth - nulls, handler.lasti))
