"""Each operation on the symbolic stack: what expression it builds, or what statement it writes."""

import ast
from typing import Any

from torchard.compiler.decompile.displays import BUILDERS
from torchard.compiler.decompile.literals import is_code
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import NONE, UNEVALUATED, Slot, Target, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, name, reads, same, unpack_target

BINARY: "dict[str, Any]" = {
    "+": ast.Add, "&": ast.BitAnd, "//": ast.FloorDiv, "<<": ast.LShift, "@": ast.MatMult, "*": ast.Mult,
    "%": ast.Mod, "|": ast.BitOr, "**": ast.Pow, ">>": ast.RShift, "-": ast.Sub, "/": ast.Div, "^": ast.BitXor,
}  # fmt: skip
COMPARE: "dict[str, Any]" = {
    "<": ast.Lt, "<=": ast.LtE, "==": ast.Eq, "!=": ast.NotEq, ">": ast.Gt, ">=": ast.GtE, "is": ast.Is,
    "is not": ast.IsNot, "in": ast.In, "not in": ast.NotIn,
}  # fmt: skip
UNARY: "dict[str, Any]" = {"-": ast.USub, "+": ast.UAdd, "not ": ast.Not, "~": ast.Invert}
LOAD, STORE, DELETE = ast.Load(), ast.Store(), ast.Del()
STORED = ("const", "pure", "ordered", "owned", "fmt", "chain", "cell")


def run(stack: Stack, ops: "list[Op]") -> None:
    """Run operations that neither jump nor end a block."""
    place = 0
    while place < len(ops):
        op = ops[place]
        stack.line = op.line
        if op.name == "Store":
            place += store(stack, ops, place)
            continue
        handler = HANDLERS.get(op.name)
        if handler is None:
            raise Unstructured(f"{op.name} has no expression")
        handler(stack, op)
        place += 1


# -- loads and stores of names


def load(stack: Stack, op: Op) -> None:
    kind, identifier = op.arg
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
    count = _stores_in_a_row(stack, ops, place)
    if count > 1:
        _store_row(stack, [other.arg for other in ops[place : place + count]])
        return count
    value = stack.slots[-1]
    if value.data != ("cleared", identifier):
        stack.scope.note_store(kind, identifier)
        stack.touch(identifier)
    target = name(identifier, STORE)
    if value.kind == "mark" and value.data == ("cleared", identifier):
        stack.slots.pop()  # an inlined comprehension gives its variable back
    elif value.kind == "aug" and _names(value.data[0], identifier) and not value.data[3]:
        stack.slots.pop()
        stack.emit(ast.AugAssign(target, value.data[1], value.data[2]))
    elif value.kind in ("module", "imported"):
        stack.slots.pop()
        stack.scope.store_import(stack, value, identifier)
    elif value.kind in ("function", "class") and stack.scope.is_statement(value, identifier):
        stack.slots.pop()
        stack.scope.define(stack, value, identifier)
    elif value.kind in ("target", "dup", "pending"):
        stack.store(target, _pop_in_order(stack))
    else:
        (value,) = stack.take(1)
        stack.store(target, value)
    return 1


def _names(expr: ast.expr, identifier: str) -> bool:
    return isinstance(expr, ast.Name) and expr.id == identifier


def _pop_in_order(stack: Stack) -> Slot:
    value = stack.slots[-1]
    if value.kind == "pending" and any(s.seq > value.seq and s.kind in UNEVALUATED for s in stack.slots[:-1]):
        stack.flush()
    return stack.slots.pop()


def _stores_in_a_row(stack: Stack, ops: "list[Op]", place: int) -> int:
    """How many plain values on top of the stack are stored by the operations from here on."""
    count = 0
    slots = stack.slots
    limit = min(len(ops) - place, len(slots))
    while count < limit and ops[place + count].name == "Store" and slots[-1 - count].kind in STORED:
        count += 1
    return count


def _store_row(stack: Stack, variables: "list[Any]") -> None:
    """Several values on the stack stored one after the other: one tuple assignment, in order of evaluation."""
    count = len(variables)
    pairs = sorted(zip(reversed(stack.slots[-count:]), variables), key=lambda pair: pair[0].seq)
    stack.slots[-count:] = [slot for slot, _ in pairs]
    values = stack.take(count)
    targets: "list[ast.expr]" = []
    for _, (kind, identifier) in pairs:
        stack.scope.note_store(kind, identifier)
        stack.touch(identifier)
        targets.append(name(identifier, STORE))
    whole = ast.Tuple([value.expr for value in values], LOAD)
    stack.emit(ast.Assign([ast.Tuple(targets, STORE)], whole))


def delete(stack: Stack, op: Op) -> None:
    kind, identifier = op.arg
    stack.scope.note_store(kind, identifier)
    stack.touch(identifier)
    stack.emit(ast.Delete([name(identifier, DELETE)]))


# -- values


def const(stack: Stack, op: Op) -> None:
    if is_code(op.arg):
        stack.push("const", None, NONE, op.arg)
        return
    slot = Slot("const", stack.scope.literal(op.arg), NONE, (op.arg,))
    stack.slots.append(slot)


def unary(stack: Stack, op: Op) -> None:
    slots = stack.take(1)
    combine(stack, ast.UnaryOp(UNARY[op.arg](), slots[0].expr), slots)


def binary(stack: Stack, op: Op) -> None:
    slots = stack.take(2)
    left, right = slots[0].expr, slots[1].expr
    if (
        op.arg == "%"
        and isinstance(left, ast.Constant)
        and isinstance(left.value, str)
        and isinstance(right, ast.Tuple)
    ):
        left = ast.JoinedStr([left])  # '%s' % (x,) would be compiled to an f-string
    combine(stack, ast.BinOp(left, BINARY[op.arg](), right), slots)


def inplace(stack: Stack, op: Op) -> None:
    slots = stack.slots
    if len(slots) < 2:
        raise Unstructured("stack underflow")
    sign = BINARY[op.arg]()
    if slots[-2].kind == "augref":
        reference = slots[-2]
        (right,) = stack.take(1)
        if slots[-1] is reference:
            slots.pop()
            origins = tuple(part for part in reference.data[1] if not isinstance(part, Slot))
            stack.push(
                "aug", None, reference.reads | right.reads, (reference.expr, sign, right.expr, origins)
            )
            return
        stack.slots.append(right)
    left, right = stack.take(2)
    stack.push("aug", None, left.reads | right.reads, (left.expr, sign, right.expr, ()))


def compare(stack: Stack, op: Op) -> None:
    if len(stack.slots) > 1 and stack.slots[-2].kind == "mid":
        slots = stack.take(1)
        link = stack.slots.pop().data
        expr = ast.Compare(
            link.expr.left, [*link.expr.ops, COMPARE[op.arg]()], [*link.expr.comparators, slots[0].expr]
        )
        stack.push("ordered", expr, link.reads | slots[0].reads, None)
        stack.slots[-1].seq = max(link.seq, stack.slots[-1].seq)
        return
    slots = stack.take(2)
    right = slots[1].expr
    if op.arg in ("in", "not in") and slots[1].kind == "const" and isinstance(slots[1].data[0], frozenset):
        right = stack.scope.set_display(slots[1].data[0])
    expr = ast.Compare(slots[0].expr, [COMPARE[op.arg]()], [right])
    combine(stack, expr, slots, pure=op.arg in ("is", "is not"))


def chain_link(stack: Stack, op: Op) -> None:
    """``a < b`` with ``b`` kept for the next comparison."""
    (right,) = stack.take(1)
    if stack.slots and stack.slots[-1].kind == "mid":
        link = stack.slots.pop().data
        expr = ast.Compare(
            link.expr.left, [*link.expr.ops, COMPARE[op.arg]()], [*link.expr.comparators, right.expr]
        )
        slots = [link, right]
    else:
        stack.slots.append(right)
        slots = stack.take(2)
        expr = ast.Compare(slots[0].expr, [COMPARE[op.arg]()], [slots[1].expr])
    chain = Slot("chain", expr, reads(slots))
    stack.push("mid", data=chain)
    stack.slots.append(chain)


def attribute(stack: Stack, op: Op) -> None:
    if _refer(stack, 1, lambda base: ast.Attribute(base, op.arg, LOAD)):
        return
    slots = stack.take(1)
    combine(stack, ast.Attribute(slots[0].expr, op.arg, LOAD), slots)


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


def unpack(stack: Stack, op: Op) -> None:
    _unpack(stack, op.arg, -1)


def unpack_ex(stack: Stack, op: Op) -> None:
    before, after = op.arg
    _unpack(stack, before + after + 1, before)


def _unpack(stack: Stack, count: int, star: int) -> None:
    value = stack.slots[-1] if stack.slots else None
    if value is not None and value.kind in ("target", "dup", "pending"):
        value = _pop_in_order(stack)
    else:
        (value,) = stack.take(1)
        stack.flush()
    unpack_target(stack, value, count, star)


def copy(stack: Stack, op: Op) -> None:
    slots = stack.slots
    if len(slots) < op.arg:
        raise Unstructured("stack underflow")
    slot = slots[-op.arg]
    if slot.kind == "dup":
        slots.append(Slot("dup", data=slot.data))
    elif slot.kind in ("augref", "target", "imported", "module"):
        stack._settle(len(slots) - op.arg)
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
        value = _pop_in_order(stack)
        stack.emit(ast.Assign(list(value.data), value.expr))
    elif kind == "pure" and not isinstance(slot.expr, ast.Name):
        stack.slots.pop()
        stack.emit(ast.Expr(slot.expr))
    else:
        (value,) = stack.take(1)
        stack.emit(ast.Expr(value.expr))


def yield_value(stack: Stack, op: Op) -> None:
    slots = stack.take(1)
    value = slots[0]
    none = value.kind == "const" and value.data == (None,)
    combine(stack, ast.Yield(None if none else value.expr), slots)


def yield_from(stack: Stack, op: Op) -> None:
    slots = stack.take(1)
    combine(stack, ast.YieldFrom(slots[0].expr), slots)


def await_value(stack: Stack, op: Op) -> None:
    if stack.slots and stack.slots[-1].data == "awaited":  # an asynchronous comprehension awaits by itself
        slot = stack.slots.pop()
        stack.slots.append(Slot("ordered", slot.expr, slot.reads, None, slot.uid, slot.seq))
        return
    slots = stack.take(1)
    combine(stack, ast.Await(slots[0].expr), slots)


def get_iter(stack: Stack, op: Op) -> None:
    (slot,) = stack.take(1)
    stack.push("iter", slot.expr, slot.reads, op.name)


def raise_statement(stack: Stack, op: Op) -> None:
    values = [slot.expr for slot in stack.take(op.arg)]
    failed = values[0] if len(values) == 1 else None
    if getattr(failed, "common", None):
        stack.emit(ast.Assert(ast.Constant(False), None))
    elif isinstance(failed, ast.Call) and getattr(failed.func, "common", None) and len(failed.args) == 1:
        stack.emit(ast.Assert(ast.Constant(False), failed.args[0]))
    else:
        stack.emit(ast.Raise(*values) if values else ast.Raise(None, None))


def return_statement(stack: Stack, op: Op) -> None:
    (value,) = stack.take(1)
    stack.slots[:] = [slot for slot in stack.slots if slot.kind not in ("pure", "const")]
    stack.emit(ast.Return(None if stack.scope.code.co_flags & 0x200 else value.expr))


def common(stack: Stack, op: Op) -> None:
    node = name(op.arg)
    node.common = True  # type: ignore[attr-defined]
    stack.push("pure", node)


def build_class(stack: Stack, op: Op) -> None:
    stack.push("mark", data="__build_class__")


def convert(stack: Stack, op: Op) -> None:
    slots = stack.take(1)
    stack.push("ordered", slots[0].expr, reads(slots), ("convert", op.arg))


def format_value(stack: Stack, op: Op) -> None:
    conversion, has_spec = op.arg
    if (
        not has_spec
        and stack.slots
        and isinstance(stack.slots[-1].data, tuple)
        and stack.slots[-1].data[:1] == ("convert",)
    ):
        conversion = stack.slots[-1].data[1]
    elif has_spec and len(stack.slots) > 1 and isinstance(stack.slots[-2].data, tuple):
        if stack.slots[-2].data[:1] == ("convert",):
            conversion = stack.slots[-2].data[1]
    spec = None
    if has_spec and stack.slots[-1].kind == "fmt":
        whole = stack.slots[-1]
        stack.slots[-1] = Slot(
            "ordered", ast.JoinedStr([whole.expr]), whole.reads, None, whole.uid, whole.seq
        )
    slots = stack.take(2 if has_spec else 1)
    if has_spec:
        spec = slots[1].expr
        if not isinstance(spec, ast.JoinedStr):
            plain = isinstance(spec, ast.Constant) and isinstance(spec.value, str)
            spec = ast.JoinedStr([spec if plain else ast.FormattedValue(spec, -1, None)])
    code = ord(conversion) if conversion else -1
    stack.push("fmt", ast.FormattedValue(slots[0].expr, code, spec), reads(slots))


def setup_annotations(stack: Stack, op: Op) -> None:
    stack.scope.annotated = True


def print_expression(stack: Stack, op: Op) -> None:
    (value,) = stack.take(1)
    stack.emit(ast.Expr(value.expr))


def optional_target(stack: Stack) -> Target:
    """Push the place of a value that may be dropped, and return it."""
    target = Target()
    target.optional = True  # type: ignore[attr-defined]
    stack.push("target", data=target)
    return target


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
    stack.push("ordered", name(op.arg[1]))


def _ignore(stack: Stack, op: Op) -> None:
    pass


HANDLERS: "dict[str, Any]" = {
    "Load": load, "Store": store, "Delete": delete, "Const": const, "Unary": unary, "Binary": binary,
    "Inplace": inplace, "Compare": compare, "ChainLink": chain_link, "Attr": attribute, "Subscr": subscript,
    "BinSlice": binary_slice, "StoreAttr": store_attribute, "StoreSubscr": store_subscript, "StoreSlice": store_slice,
    "DeleteAttr": delete_attribute, "DeleteSubscr": delete_subscript, "Unpack": unpack, "UnpackEx": unpack_ex,
    "Copy": copy, "Permute": permute, "Swap": swap, "Pop": pop, "Yield": yield_value, "YieldFrom": yield_from, "Await": await_value,
    "GetIter": get_iter, "GetAiter": get_iter, "Raise": raise_statement, "Return": return_statement, "Common": common,
    "BuildClass": build_class, "Convert": convert, "Format": format_value, "SetupAnnotations": setup_annotations,
    "LoadClear": load_clear, "LoadLocals": load_locals, "LoadFromDict": load_from_dict,
    "PrintExpr": print_expression, "Jump": _ignore, **BUILDERS,
}  # fmt: skip
