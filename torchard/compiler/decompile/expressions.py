"""Each operation on the symbolic stack: what expression it builds, or what statement it writes."""

import ast
from typing import Any

from torchard.compiler.decompile import generics, templates
from torchard.compiler.decompile.displays import BUILDERS
from torchard.compiler.decompile.literals import is_code
from torchard.compiler.decompile.moves import MOVES
from torchard.compiler.decompile.names import NAMES, store
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.places import PLACES
from torchard.compiler.decompile.slots import NONE, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, name, reads

BINARY: "dict[str, Any]" = {
    "+": ast.Add, "&": ast.BitAnd, "//": ast.FloorDiv, "<<": ast.LShift, "@": ast.MatMult, "*": ast.Mult,
    "%": ast.Mod, "|": ast.BitOr, "**": ast.Pow, ">>": ast.RShift, "-": ast.Sub, "/": ast.Div,
    "^": ast.BitXor,
}  # fmt: skip
COMPARE: "dict[str, Any]" = {
    "<": ast.Lt, "<=": ast.LtE, "==": ast.Eq, "!=": ast.NotEq, ">": ast.Gt, ">=": ast.GtE, "is": ast.Is,
    "is not": ast.IsNot, "in": ast.In, "not in": ast.NotIn,
}  # fmt: skip
UNARY: "dict[str, Any]" = {"-": ast.USub, "+": ast.UAdd, "not ": ast.Not, "~": ast.Invert}


def run(stack: Stack, ops: "list[Op]") -> None:
    """Run operations that neither jump nor end a block."""
    place = 0
    while place < len(ops):
        op = ops[place]
        stack.line = op.line
        if op.name == "Store":
            place += store(stack, ops, place)
            continue
        following = ops[place + 1] if place + 1 < len(ops) else None
        if op.name == "Unpack" and op.arg == 1 and generics.spread(stack, following):
            place += 1
            continue
        handler = HANDLERS.get(op.name)
        if handler is None:
            raise Unstructured(f"{op.name} has no expression")
        handler(stack, op)
        place += 1


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
    if stack.scope.generic:
        generics.made(stack)
        return
    (value,) = stack.take(1)
    stack.slots[:] = [slot for slot in stack.slots if slot.kind not in ("pure", "const")]
    stack.emit(ast.Return(None if stack.scope.code.co_flags & 0x200 else value.expr))


def common(stack: Stack, op: Op) -> None:
    node = name(op.arg)
    node.common = op.arg == "AssertionError"  # type: ignore[attr-defined]
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
    slots = stack.take(2 if has_spec else 1)
    spec = templates.specification(slots[1].expr) if has_spec else None
    code = ord(conversion) if conversion else -1
    stack.push("fmt", ast.FormattedValue(slots[0].expr, code, spec), reads(slots))


def setup_annotations(stack: Stack, op: Op) -> None:
    stack.scope.annotated = True


def print_expression(stack: Stack, op: Op) -> None:
    (value,) = stack.take(1)
    stack.emit(ast.Expr(value.expr))


def _ignore(stack: Stack, op: Op) -> None:
    pass


HANDLERS: "dict[str, Any]" = {
    "Const": const, "Unary": unary, "Binary": binary, "Inplace": inplace, "Compare": compare,
    "ChainLink": chain_link,
    "Yield": yield_value, "YieldFrom": yield_from, "Await": await_value, "GetIter": get_iter,
    "GetAiter": get_iter,
    "Raise": raise_statement, "Return": return_statement, "Common": common, "BuildClass": build_class,
    "Convert": convert, "Format": format_value, "SetupAnnotations": setup_annotations,
    "PrintExpr": print_expression, "Jump": _ignore, **NAMES, **PLACES, **MOVES, **BUILDERS,
}  # fmt: skip
