"""Attributes, elements and slices: read, stored to, deleted, changed in place."""

import ast
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import UNEVALUATED, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, reads, same

LOAD, STORE, DELETE = ast.Load(), ast.Store(), ast.Del()


def attribute(stack: Stack, op: Op) -> None:
    if _refer(stack, 1, lambda base: ast.Attribute(base, op.arg, LOAD)):
        return
    slots = stack.take(1)
    base = slots[0].expr
    if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
        stack.scope.settings.plain_super = True
    combine(stack, ast.Attribute(base, op.arg, LOAD), slots)


def subscript(stack: Stack, op: Op) -> None:
    if _refer(stack, 2, lambda base, key: ast.Subscript(base, key, LOAD)):
        return
    slots = stack.take(2, slices=True)
    combine(stack, ast.Subscript(slots[0].expr, slots[1].expr, LOAD), slots)


def binary_slice(stack: Stack, op: Op) -> None:
    if _refer(stack, 3, lambda base, low, high: ast.Subscript(base, slice_node([low, high]), LOAD)):
        return
    slots = stack.take(3)
    key = slice_node([slots[1].expr, slots[2].expr])
    combine(stack, ast.Subscript(slots[0].expr, key, LOAD), slots)


def slice_node(parts: "list[Any]") -> ast.Slice:
    """None stands for a part left out."""
    kept = [None if isinstance(part, ast.Constant) and part.value is None else part for part in parts]
    return ast.Slice(*kept)


def _refer(stack: Stack, count: int, kind: Any) -> bool:
    """A read through copies of operands that stay on the stack: the left side of an augmented assignment."""
    operands = stack.slots[-count:]
    if len(operands) < count or not any(slot.kind == "dup" for slot in operands):
        return False
    parts, exprs = [], []
    origins = [stack.origin(slot) for slot in operands if slot.kind == "dup"]
    if not any(origin is not None and origin.kind in UNEVALUATED for origin in origins):
        return False
    for slot in operands:
        origin = stack.origin(slot) if slot.kind == "dup" else None
        if origin is not None and origin.kind in ("const", "pure"):
            slot = origin
        if origin is not None and origin.kind in UNEVALUATED:
            if origin.kind not in ("ordered", "owned"):
                return False
            parts.append(origin.uid)
            exprs.append(origin.expr)
        elif slot.kind in ("const", "pure"):
            parts.append(slot)
            exprs.append(slot.expr)
        else:
            return False
    del stack.slots[-count:]
    stack.push("augref", kind(*exprs), reads(operands), (kind, parts))
    return True


def store_attribute(stack: Stack, op: Op) -> None:
    base = _augmented(stack, 1, lambda base: ast.Attribute(base, op.arg, STORE))
    if base:
        return
    (base_slot,) = stack.take(1)
    target = ast.Attribute(base_slot.expr, op.arg, STORE)
    _store_into(stack, target, [base_slot])


def store_subscript(stack: Stack, op: Op) -> None:
    if _augmented(stack, 2, lambda base, key: ast.Subscript(base, key, STORE)):
        return
    slots = stack.take(2, slices=True)
    _store_into(stack, ast.Subscript(slots[0].expr, slots[1].expr, STORE), slots)


def store_slice(stack: Stack, op: Op) -> None:
    def target(base: ast.expr, low: ast.expr, high: ast.expr) -> ast.Subscript:
        return ast.Subscript(base, slice_node([low, high]), STORE)

    if _augmented(stack, 3, target):
        return
    slots = stack.take(3)
    _store_into(stack, target(*[slot.expr for slot in slots]), slots)


def _store_into(stack: Stack, target: ast.expr, operands: "list[Slot]") -> None:
    """Assign to an attribute or element; the value was evaluated before the operands of the target."""
    value = stack.slots[-1] if stack.slots else None
    if value is None:
        raise Unstructured("stack underflow")
    if value.kind in ("target", "dup", "pending"):
        stack.slots.pop()
        stack.store(target, value)
        return
    first = min([slot.seq for slot in operands if slot.kind in UNEVALUATED], default=None)
    if first is not None and any(s.kind in UNEVALUATED and s.seq > first for s in stack.slots):
        # evaluated in another order than an assignment would: operands first
        stack.slots.extend(operands)
        stack.flush()
        operands = stack.take(len(operands))
        target = _rebuild(target, operands)
    (value,) = stack.take(1)
    stack.store(target, value)


def _rebuild(target: Any, operands: "list[Slot]") -> ast.expr:
    if isinstance(target, ast.Attribute):
        return ast.Attribute(operands[0].expr, target.attr, STORE)
    if len(operands) == 3:
        return ast.Subscript(operands[0].expr, slice_node([operands[1].expr, operands[2].expr]), STORE)
    return ast.Subscript(operands[0].expr, operands[1].expr, STORE)


def _augmented(stack: Stack, count: int, kind: Any) -> bool:
    """``a.b += c`` and ``a[b] += c``: the value is an in-place result of the very place it is stored to."""
    slots = stack.slots
    if len(slots) <= count or slots[-1 - count].kind != "aug":
        return False
    left, sign, right, origins = slots[-1 - count].data
    operands = slots[-count:]
    needed = [slot.uid for slot in operands if slot.kind in UNEVALUATED]
    if needed != list(origins) or any(
        slot.kind not in ("const", "pure", "ordered", "owned") for slot in operands
    ):
        return False
    target = kind(*[slot.expr for slot in operands])
    if not same(target, left):
        return False
    del slots[-1 - count :]
    stack.emit(ast.AugAssign(target, sign, right))
    return True


def delete_attribute(stack: Stack, op: Op) -> None:
    (base,) = stack.take(1)
    stack.emit(ast.Delete([ast.Attribute(base.expr, op.arg, DELETE)]))


def delete_subscript(stack: Stack, op: Op) -> None:
    base, key = stack.take(2, slices=True)
    stack.emit(ast.Delete([ast.Subscript(base.expr, key.expr, DELETE)]))


PLACES: "dict[str, Any]" = {
    "Attr": attribute, "Subscr": subscript, "BinSlice": binary_slice, "StoreAttr": store_attribute,
    "StoreSubscr": store_subscript, "StoreSlice": store_slice, "DeleteAttr": delete_attribute,
    "DeleteSubscr": delete_subscript,
}  # fmt: skip
