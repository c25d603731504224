"""Moves on the symbolic stack that build no expression: copies, swaps, drops, unpackings."""

import ast
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import UNEVALUATED, Slot, Target, Unstructured
from torchard.compiler.decompile.stack import Stack, unpack_target


def copy(stack: Stack, op: Op) -> None:
    slots = stack.slots
    if len(slots) < op.arg:
        raise Unstructured("stack underflow")
    slot = slots[-op.arg]
    if slot.kind == "dup":
        slots.append(Slot("dup", data=slot.data))
    elif slot.kind in ("augref", "target", "imported", "module"):
        stack.settle(len(slots) - op.arg)
        copy(stack, op)
    elif slot.kind in UNEVALUATED or slot.kind in ("const", "pure") and not _silent(stack, slot):
        slots.append(Slot("dup", data=slot.uid))
    else:
        slots.append(Slot(slot.kind, slot.expr, slot.reads, slot.data))


def _silent(stack: Stack, slot: Slot) -> bool:
    """A temporary, or code: copies of these are never told apart."""
    return slot.expr is None or (slot.kind == "pure" and slot.reads <= stack.scope.frozen | stack.scope.quiet)


def swap(stack: Stack, op: Op) -> None:
    slots = stack.slots
    if len(slots) < op.arg:
        raise Unstructured("stack underflow")
    slots[-op.arg], slots[-1] = slots[-1], slots[-op.arg]


def permute(stack: Stack, op: Op) -> None:
    """Put the top of the stack into another order (a swap with a NULL, which is not on this stack)."""
    top = stack.slots[-len(op.arg) :]
    stack.slots[-len(op.arg) :] = [top[place] for place in op.arg]


def pop(stack: Stack, op: Op) -> None:
    if not stack.slots:
        raise Unstructured("stack underflow")
    slot = stack.slots[-1]
    kind = slot.kind
    if kind == "module":
        stack.slots.pop()
        stack.scope.pop_import(stack, slot)
    elif kind == "target" and slot.data.parent is None and getattr(slot.data, "optional", False):
        stack.slots.pop()
    elif kind in ("mark", "mid", "dup", "const", "cleared") or (
        kind == "pure" and slot.reads <= stack.scope.frozen | stack.scope.quiet
    ):
        stack.release(stack.slots.pop())
    elif kind == "pending":
        value = pop_in_order(stack)
        stack.emit(ast.Assign(list(value.data), value.expr))
    elif kind == "pure" and not isinstance(slot.expr, ast.Name):
        stack.slots.pop()
        stack.emit(ast.Expr(slot.expr))
    else:
        (value,) = stack.take(1)
        stack.emit(ast.Expr(value.expr))


def unpack(stack: Stack, op: Op) -> None:
    _unpack(stack, op.arg, -1)


def unpack_ex(stack: Stack, op: Op) -> None:
    before, after = op.arg
    _unpack(stack, before + after + 1, before)


def _unpack(stack: Stack, count: int, star: int) -> None:
    value = stack.slots[-1] if stack.slots else None
    if value is not None and value.kind in ("target", "dup", "pending"):
        value = pop_in_order(stack)
    else:
        (value,) = stack.take(1)
        stack.flush()
    unpack_target(stack, value, count, star)


def optional_target(stack: Stack) -> Target:
    """Push the place of a value that may be dropped, and return it."""
    target = Target()
    target.optional = True  # type: ignore[attr-defined]
    stack.push("target", data=target)
    return target


def pop_in_order(stack: Stack) -> Slot:
    """Take the top of the stack; an assignment under way is finished first where something newer waits."""
    value = stack.slots[-1]
    if value.kind == "pending" and any(s.seq > value.seq and s.kind in UNEVALUATED for s in stack.slots[:-1]):
        stack.flush()
    return stack.slots.pop()


MOVES: "dict[str, Any]" = {
    "Copy": copy, "Swap": swap, "Permute": permute, "Pop": pop, "Unpack": unpack, "UnpackEx": unpack_ex,
}  # fmt: skip
