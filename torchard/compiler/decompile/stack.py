"""The symbolic stack: values stay expressions as long as the order of evaluation allows, then go to
temporaries."""

import ast
from typing import Any

from torchard.compiler.decompile.slots import MARKS, NONE, UNEVALUATED, Impure, Slot, Target, Unstructured


def name(identifier: str, context: Any = None) -> ast.Name:
    return ast.Name(identifier, context or ast.Load())


def same(one: Any, two: Any) -> bool:
    """Equal syntax, loads and stores not told apart."""
    if type(one) is not type(two):
        return False
    if isinstance(one, ast.AST):
        return all(
            same(getattr(one, field, None), getattr(two, field, None))
            for field in one._fields
            if field != "ctx"
        )
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


class Stack:
    """Slots, and the statements written so far. ``pure`` forbids statements: see :class:`Impure`."""

    def __init__(self, scope: Any, slots: "list[Slot]", *, pure: bool = False) -> None:
        self.scope = scope
        self.slots = slots
        self.out: "list[ast.stmt]" = []
        self.pure = pure
        self.line: Any = None

    # -- pushing and taking

    def push(self, kind: str, expr: Any = None, reads: "frozenset[str]" = NONE, data: Any = None) -> Slot:
        slot = Slot(kind, expr, reads, data)
        self.slots.append(slot)
        return slot

    def take(self, count: int, *, slices: bool = False) -> "list[Slot]":
        """Pop ``count`` slots as expressions that may be evaluated one after the other, now.

        Only subscripts can hold ``a:b`` (``slices``); elsewhere it is written ``slice(a, b)``.
        """
        if not count:
            return []
        slots = self.slots
        if len(slots) < count:
            raise Unstructured("stack underflow")
        base = len(slots) - count
        for place in range(base, len(slots)):
            kind = slots[place].kind
            if kind not in ("const", "pure", "ordered", "owned"):
                self.settle(place)
            if not slices and _has_slice(slots[place].expr):
                slot = slots[place]
                slots[place] = Slot(
                    slot.kind, _without_slice(slot.expr), slot.reads, slot.data, slot.uid, slot.seq
                )
        self._keep_order(base)
        taken = slots[base:]
        for place, slot in enumerate(taken):
            if slot.expr is None:  # a code object as a value
                taken[place] = Slot("const", self.scope.literal(slot.data), NONE, slot.data)
        del slots[base:]
        for slot in taken:
            self.release(slot)
        return taken

    def release(self, slot: Slot) -> None:
        """``slot`` leaves the stack: its copies stand for themselves from now on."""
        if slot.kind in ("const", "pure"):
            for place, other in enumerate(self.slots):
                if other.kind == "dup" and other.data == slot.uid:
                    self.slots[place] = Slot(slot.kind, slot.expr, slot.reads, slot.data)

    def _keep_order(self, base: int) -> None:
        """Where evaluation would change places, everything unevaluated goes to temporaries, oldest first."""
        slots = self.slots
        last = first = -1
        bad = False
        for slot in slots[base:]:
            if slot.kind in UNEVALUATED:
                if slot.seq < last:
                    bad = True
                last = slot.seq
                if first < 0 or last < first:
                    first = last
        if first >= 0 and not bad:
            bad = any(slot.seq > first and slot.kind in UNEVALUATED for slot in slots[:base])
        shared = any(slot.kind == "dup" for slot in slots[:base]) and self._shared(base)
        if bad or shared:
            self.flush()

    def _shared(self, base: int) -> bool:
        uids = {slot.uid for slot in self.slots[base:] if slot.kind in UNEVALUATED}
        return any(slot.kind == "dup" and slot.data in uids for slot in self.slots[:base])

    def settle(self, place: int) -> None:
        """Make a slot of a special kind an expression, in place."""
        slot = self.slots[place]
        kind = slot.kind
        if kind == "dup":
            origin = self.origin(slot)
            if origin is None:
                raise Unstructured("a copied value is gone")
            if origin.kind in UNEVALUATED:
                self.spill_until(origin)
                return
            self.slots[place] = Slot(origin.kind, origin.expr, origin.reads, origin.data)
        elif kind == "pending":
            if not all(isinstance(target, ast.Name) for target in slot.data):
                self.spill_until(slot)
                return
            expr = slot.expr
            for target in slot.data:
                expr = ast.NamedExpr(name(target.id, ast.Store()), expr)
            self.slots[place] = Slot("ordered", expr, slot.reads, None, slot.uid, slot.seq)
        elif kind == "fmt":
            self.slots[place] = Slot(
                "ordered", ast.JoinedStr([slot.expr]), slot.reads, None, slot.uid, slot.seq
            )
        elif kind in ("chain", "interpolation", "interpolations"):
            self.slots[place] = Slot("ordered", slot.expr, slot.reads, None, slot.uid, slot.seq)
        elif kind == "target":
            self.close_targets()
        elif kind in ("aug", "augref", "class", "alias", "param", "imported", "module"):
            self.spill_until(slot)
        elif kind == "function":
            self.slots[place] = self.scope.function_expression(self, slot)
        elif kind == "cell":
            self.slots[place] = Slot("ordered", _cell(slot.data), NONE, None, slot.uid, slot.seq)
        elif kind == "cells":
            cells: "list[ast.expr]" = [_cell(cell) for cell in slot.data]
            self.slots[place] = Slot("ordered", ast.Tuple(cells, ast.Load()), NONE, None, slot.uid, slot.seq)
        elif kind in MARKS:
            raise Unstructured(f"{slot.data or kind} used as a value")

    def origin(self, dup: Slot) -> Any:
        return next((slot for slot in self.slots if slot.uid == dup.data and slot.kind != "dup"), None)

    def replace(self, old: Slot, new: Slot) -> None:
        self.slots[self.slots.index(old)] = new

    # -- statements and temporaries

    def emit(self, statement: ast.stmt) -> None:
        """Write a statement; whatever was to be evaluated before it is evaluated before it."""
        if self.pure:
            raise Impure
        self.close_targets()
        self.flush()
        self.append(statement)

    def append(self, statement: ast.stmt) -> None:
        if self.pure:
            raise Impure
        statement.origin_line = self.line  # type: ignore[attr-defined]
        self.out.append(statement)

    def flush(self) -> None:
        """Send every unevaluated slot to a temporary, oldest first."""
        todo = [slot for slot in self.slots if slot.kind in UNEVALUATED or slot.kind == "augref"]
        if todo:
            for slot in sorted(todo, key=lambda slot: slot.seq):
                self.spill(slot)

    def freeze(self) -> None:
        """Flush, and read locals now: nothing left on the stack depends on what comes."""
        self.flush()
        for slot in list(self.slots):
            if slot.kind == "pure" and not all(read in self.scope.frozen for read in slot.reads):
                self.spill(slot)

    def spill_until(self, slot: Slot) -> None:
        """Send ``slot``, and what is evaluated before it, to temporaries."""
        todo = [
            other
            for other in self.slots
            if (other.kind in UNEVALUATED and other.seq < slot.seq) or other is slot
        ]
        for other in sorted(todo, key=lambda other: other.seq):
            self.spill(other)

    def spill(self, slot: Slot) -> None:
        if self.pure:
            raise Impure
        self.close_targets()
        if slot not in self.slots:
            return
        if slot.kind == "chain":
            raise Unstructured("a chained comparison is kept across statements")
        if slot.kind == "iter":
            raise Unstructured("an iterator is kept across statements")
        temporary = self.scope.temporary(slot)
        result = Slot("pure", name(temporary), frozenset((temporary,)), None, slot.uid, slot.seq)
        self._store_temporary(slot, temporary)
        if slot in self.slots:
            self.replace(slot, result)
        self.slots[:] = [
            Slot("pure", name(temporary), result.reads)
            if other.kind == "dup" and other.data == slot.uid or _same_parameter(other, slot)
            else other
            for other in self.slots
        ]

    def _store_temporary(self, slot: Slot, temporary: str) -> None:
        kind = slot.kind
        target = name(temporary, ast.Store())
        if kind == "aug":
            left, sign, right, origins = slot.data
            if origins:
                raise Unstructured("an in-place result is kept")
            self.scope.frozen.add(temporary)
            self.append(ast.Assign([target], left))
            self.append(ast.AugAssign(name(temporary, ast.Store()), sign, right))
        elif kind == "augref":
            self.append(ast.Assign([target], self._dereference(slot)))
            self.scope.frozen.add(temporary)
        elif kind == "pending":
            self.append(ast.Assign([*slot.data, target], slot.expr))
            self.scope.frozen.add(temporary)
        elif kind == "fmt":
            self.append(ast.Assign([target], ast.JoinedStr([slot.expr])))
            self.scope.frozen.add(temporary)
        elif kind == "function":
            self.append(self.scope.define(slot, temporary))
        elif kind in ("class", "param", "alias"):
            for statement in self.scope.apart(slot, temporary):
                self.append(statement)
            self.scope.frozen.add(temporary)
        elif kind == "imported":
            self.scope.store_import(self, slot, temporary)
        elif kind == "module":
            self.scope.store_import(self, slot, temporary)
        else:
            self.append(ast.Assign([target], _without_slice(slot.expr)))
            self.scope.frozen.add(temporary)

    def _dereference(self, slot: Slot) -> ast.expr:
        """A read through copied operands, once these are in temporaries."""
        kind, operands = slot.data
        parts = []
        for operand in operands:
            if isinstance(operand, Slot):
                parts.append(operand.expr)
                continue
            origin = next((other for other in self.slots if other.uid == operand), None)
            if origin is None or origin.kind in UNEVALUATED:
                raise Unstructured("a copied operand is not kept")
            parts.append(origin.expr)
        return kind(*parts)

    def touch(self, variable: str) -> None:
        """Before ``variable`` changes: slots that read it must be evaluated in their place."""
        for place, slot in enumerate(self.slots):
            if slot.kind == "pure" and variable in slot.reads:
                self.slots[place] = Slot("ordered", slot.expr, slot.reads, slot.data, slot.uid, slot.seq)

    def close_targets(self) -> None:
        """Values that were to be stored piece by piece go to temporaries, as something else comes first."""
        for place, slot in enumerate(self.slots):
            if slot.kind == "target" and slot.data.node is None:
                if self.pure:
                    raise Impure
                temporary = self.scope.temporary()
                self.scope.frozen.add(temporary)
                self.slots[place] = Slot(
                    "pure", name(temporary), frozenset((temporary,)), None, slot.uid, slot.seq
                )
                slot.data.fill(name(temporary, ast.Store()))

    # -- stores

    def store(self, target: ast.expr, value: Slot) -> None:
        """Write ``target = value`` for a value just taken off the stack (or a part of a larger store)."""
        if value.kind == "target":
            value.data.fill(target)
        elif value.kind == "dup":
            self._store_copy(target, value)
        elif value.kind == "pending":
            self.emit(ast.Assign([*value.data, target], value.expr))
        else:
            self.emit(ast.Assign([target], value.expr))

    def _store_copy(self, target: ast.expr, dup: Slot) -> None:
        """One target of a chained assignment, or a walrus: remember it with the value."""
        origin = self.origin(dup)
        if origin is None:
            raise Unstructured("a copied value is gone")
        later = any(slot.seq > origin.seq and slot.kind in UNEVALUATED for slot in self.slots)
        if origin.kind not in (*UNEVALUATED, "const", "pure") or origin.kind in (
            "aug",
            "function",
            "class",
            "alias",
            "imported",
        ):
            self.emit(ast.Assign([target], origin.expr))
        elif later and origin.kind in ("const", "pure"):
            self.emit(ast.Assign([target], origin.expr))
        elif later:
            self.spill_until(origin)
            replaced = next(slot for slot in self.slots if slot.uid == dup.data)
            self.emit(ast.Assign([target], replaced.expr))
        else:
            if origin.kind == "fmt":
                origin_expr: Any = ast.JoinedStr([origin.expr])
            else:
                origin_expr = origin.expr
            targets = [*origin.data, target] if origin.kind == "pending" else [target]
            self.replace(origin, Slot("pending", origin_expr, origin.reads, targets, origin.uid, origin.seq))


def _same_parameter(one: Slot, two: Slot) -> bool:
    return one.kind == two.kind == "param" and one.data is two.data


def _cell(variable: str) -> ast.expr:
    """The cell of a variable as a value: there is no syntax but a closure's."""
    arguments = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    reader = ast.Lambda(arguments, name(variable))
    closure = ast.Attribute(reader, "__closure__", ast.Load())
    return ast.Subscript(closure, ast.Constant(0), ast.Load())


def _unpacked(stack: Stack, node: Any, value: Slot) -> None:
    """Write an unpacking: what is older was written when it began, what is newer comes after."""
    if value.kind in ("dup", "pending"):
        stack.store(node, value)
    else:
        stack.append(ast.Assign([node], value.expr))


def unpack_target(stack: Stack, value: Slot, count: int, star: int) -> None:
    """Push places for ``count`` parts of ``value`` (the starred one at ``star``, or -1)."""
    if value.kind == "target":
        whole = value.data
    else:
        whole = Target()
        whole.done = lambda node: _unpacked(stack, node, value)
    whole.split(count, star)
    for part in reversed(whole.parts):
        stack.push("target", data=part)


def reads(slots: "list[Slot]") -> "frozenset[str]":
    """Return the fast locals that the slots read."""
    result = NONE
    for slot in slots:
        if slot.reads:
            result |= slot.reads
    return result


def combine(stack: Stack, expr: ast.expr, slots: "list[Slot]", *, pure: bool = False) -> Slot:
    """Push an expression built from taken slots; it is pure only if asked for and all its parts are."""
    free = pure and all(slot.kind in ("const", "pure") for slot in slots)
    return stack.push("pure" if free else "ordered", expr, reads(slots))


def _has_slice(expr: Any) -> bool:
    return isinstance(expr, ast.Slice) or (isinstance(expr, ast.Tuple) and any(map(_has_slice, expr.elts)))


def _without_slice(expr: Any) -> Any:
    if isinstance(expr, ast.Slice):
        nothing = ast.Constant(None)
        parts = [expr.lower or nothing, expr.upper or nothing, *([expr.step] if expr.step else [])]
        return ast.Call(name("slice"), parts, [])
    if _has_slice(expr):
        return ast.Tuple([_without_slice(element) for element in expr.elts], ast.Load())
    return expr
