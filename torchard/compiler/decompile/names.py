"""Names on the symbolic stack: loads, stores, deletions, and several stores in a row as one assignment."""

import ast
from typing import Any

from torchard.compiler.decompile import annotations, generics
from torchard.compiler.decompile.moves import pop_in_order
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import Unstructured
from torchard.compiler.decompile.stack import Stack, name

_STORE, _DELETE = ast.Store(), ast.Del()
_STORED = ("const", "pure", "ordered", "owned", "fmt", "chain", "cell")


def load(stack: Stack, op: Op) -> None:
    kind, identifier = op.arg
    if generics.load(stack, kind, identifier) or (kind == "deref" and annotations.load(stack, identifier)):
        return
    if kind == "closure":
        stack.push("cell", data=identifier)
    elif kind == "fast":
        stack.push("pure", name(identifier), frozenset((identifier,)))
    else:
        stack.scope.note(kind, identifier)
        stack.push("ordered", name(identifier))


def store(stack: Stack, ops: "list[Op]", place: int) -> int:
    """Store the top of the stack; return how many operations that took care of."""
    kind, identifier = ops[place].arg
    if not stack.slots:
        raise Unstructured("stack underflow")
    if generics.store(stack, kind, identifier) or annotations.store(stack, identifier):
        return 1
    count = _stores_in_a_row(stack, ops, place)
    if count > 1:
        _store_row(stack, [other.arg for other in ops[place : place + count]])
        return count
    value = stack.slots[-1]
    if value.data != ("cleared", identifier):
        stack.scope.note_store(kind, identifier)
        stack.touch(identifier)
    target = name(identifier, _STORE)
    if value.kind == "mark" and value.data == ("cleared", identifier):
        stack.slots.pop()  # an inlined comprehension gives its variable back
    elif value.kind == "aug" and _names(value.data[0], identifier) and not value.data[3]:
        stack.slots.pop()
        stack.emit(ast.AugAssign(target, value.data[1], value.data[2]))
    elif value.kind in ("module", "imported"):
        stack.slots.pop()
        stack.scope.store_import(stack, value, identifier)
    elif value.kind in ("function", "class", "alias") and stack.scope.is_statement(value, identifier):
        stack.slots.pop()
        stack.emit(stack.scope.define(value, identifier))
    elif value.kind in ("target", "dup", "pending"):
        stack.store(target, pop_in_order(stack))
    else:
        (value,) = stack.take(1)
        stack.store(target, value)
    return 1


def _names(expr: ast.expr, identifier: str) -> bool:
    return isinstance(expr, ast.Name) and expr.id == identifier


def _stores_in_a_row(stack: Stack, ops: "list[Op]", place: int) -> int:
    """How many plain values on top of the stack are stored by the operations from here on."""
    count = 0
    slots = stack.slots
    limit = min(len(ops) - place, len(slots))
    while count < limit and ops[place + count].name == "Store" and slots[-1 - count].kind in _STORED:
        count += 1
    return count


def _store_row(stack: Stack, variables: "list[Any]") -> None:
    """Several values on the stack stored one after the other: one tuple assignment, in order of
    evaluation."""
    count = len(variables)
    pairs = sorted(zip(reversed(stack.slots[-count:]), variables), key=lambda pair: pair[0].seq)
    stack.slots[-count:] = [slot for slot, _ in pairs]
    values = stack.take(count)
    targets: "list[ast.expr]" = []
    for _, (kind, identifier) in pairs:
        stack.scope.note_store(kind, identifier)
        stack.touch(identifier)
        targets.append(name(identifier, _STORE))
    whole = ast.Tuple([value.expr for value in values], ast.Load())
    stack.emit(ast.Assign([ast.Tuple(targets, _STORE)], whole))


def delete(stack: Stack, op: Op) -> None:
    kind, identifier = op.arg
    stack.scope.note_store(kind, identifier)
    stack.touch(identifier)
    stack.emit(ast.Delete([name(identifier, _DELETE)]))


def load_clear(stack: Stack, op: Op) -> None:
    """An inlined comprehension puts the variable of the same name away."""
    stack.push("mark", data=("cleared", op.arg[1]))


def load_locals(stack: Stack, op: Op) -> None:
    stack.push("mark", data="locals")


def load_from_dict(stack: Stack, op: Op) -> None:
    """A class body looks into its own names first, then into a cell or the globals."""
    if not stack.slots or stack.slots[-1].data != "locals":
        raise Unstructured("a name is looked up in a computed dict")
    stack.slots.pop()
    if not generics.load(stack, *op.arg):
        stack.push("ordered", name(op.arg[1]))


NAMES: "dict[str, Any]" = {
    "Load": load, "Store": store, "Delete": delete, "LoadClear": load_clear, "LoadLocals": load_locals,
    "LoadFromDict": load_from_dict,
}  # fmt: skip
