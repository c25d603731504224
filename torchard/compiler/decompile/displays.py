"""Displays, calls, functions and imports on the symbolic stack."""

import ast
import copy
from typing import Any

from torchard.compiler.decompile import annotations, generics, templates
from torchard.compiler.decompile.literals import is_code
from torchard.compiler.decompile.made import Class, Function, Generic, Import
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import NONE, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, reads

LOAD = ast.Load()


# -- displays


def build(stack: Stack, op: Op) -> None:
    kind, count = op.arg
    if kind == "string":
        _build_string(stack, count)
        return
    if kind == "tuple" and count and (generics.build(stack, count) or templates.build(stack, count)):
        return
    if count > 1 and len(stack.slots) >= count and stack.slots[-count].kind == "body":
        count -= generics.without_base(stack, count)
        stack.slots[-count] = _body_argument(stack.slots[-count])
    if kind == "tuple" and count and all(slot.kind == "cell" for slot in stack.slots[-count:]):
        cells = [slot.data for slot in stack.slots[-count:]]
        del stack.slots[-count:]
        stack.push("cells", data=cells)
        return
    slots = stack.take(count * 2 if kind == "map" else count, slices=kind == "tuple")
    exprs = [slot.expr for slot in slots]
    if kind == "tuple":
        combine(stack, ast.Tuple(exprs, LOAD), slots, pure=True)
    elif kind == "slice":
        combine(stack, slice_expr(exprs), slots)
    elif kind == "list":
        stack.push("owned", ast.List(exprs, LOAD), reads(slots))
    elif kind == "set":
        stack.push("owned", ast.Set(exprs), reads(slots))
    else:
        stack.push("owned", ast.Dict(exprs[::2], exprs[1::2]), reads(slots))


def _body_argument(slot: Slot) -> Slot:
    """The body of a class with ``*bases``, as the first of the arguments it is made of."""
    node = ast.Constant(None)
    node.body = slot.data  # type: ignore[attr-defined]
    return Slot("const", node, NONE, (None,))


def slice_expr(parts: "list[Any]") -> ast.Slice:
    """``None`` written as a left-out part; the step only if there is one."""
    kept = [None if isinstance(part, ast.Constant) and part.value is None else part for part in parts]
    if len(parts) == 3 and kept[2] is None:
        kept[2] = parts[2]
    return ast.Slice(*kept)


def _build_string(stack: Stack, count: int) -> None:
    for place in range(len(stack.slots) - count, len(stack.slots)):
        slot = stack.slots[place]
        if slot.kind == "fmt":
            stack.slots[place] = Slot("ordered", slot.expr, slot.reads, None, slot.uid, slot.seq)
    slots = stack.take(count)
    values: "list[ast.expr]" = []
    for slot in slots:
        part = slot.expr
        if not isinstance(part, ast.FormattedValue) and not _is_text(part):
            part = ast.FormattedValue(part, -1, None)
        values.append(part)
    stack.push("ordered", ast.JoinedStr(values), reads(slots))


def _is_text(expr: Any) -> bool:
    return isinstance(expr, ast.Constant) and isinstance(expr.value, str)


def const_key_map(stack: Stack, op: Op) -> None:
    keys = stack.slots.pop().data[0]
    slots = stack.take(op.arg)
    node = ast.Dict([stack.scope.literal(key) for key in keys], [slot.expr for slot in slots])
    stack.push("owned", node, reads(slots))


def grow(stack: Stack, op: Op) -> None:
    """Add to a list, set or dict that is still being built, or that lies in a temporary."""
    if (
        op.name == "Append"
        and stack.slots
        and (stack.slots[-1].data == "rest" or stack.slots[-1].kind == "base")
    ):
        stack.slots.pop()  # what no ``except*`` clause took, or a base that the compiler adds
        return
    if op.name == "AddSet" and annotations.reached(stack):
        return
    values = stack.take(2 if op.name == "AddMap" else 1)
    if op.arg > len(stack.slots):
        raise Unstructured("stack underflow")
    place = len(stack.slots) - op.arg
    container = stack.slots[place]
    if container.kind == "owned" and op.arg == 1:
        node = _grown(stack, container.expr, op.name, values)
        if node is not None:
            stack.slots[place] = Slot(
                "owned", node, container.reads | reads(values), None, container.uid, container.seq
            )
            return
    if container.kind in ("owned", "ordered"):
        stack.slots.extend(values)
        stack.flush()
        values = stack.take(len(values))
        container = stack.slots[place]
    if container.kind != "pure":
        raise Unstructured("a growing display is not on the stack")
    stack.emit(_grow_statement(container.expr, op.name, values))


def _grown(stack: Stack, node: Any, how: str, values: "list[Slot]") -> Any:
    value = values[-1].expr
    constant = values[-1].data[0] if values[-1].kind == "const" else None
    if how == "Append":
        return ast.List([*node.elts, value], LOAD)
    if how == "AddSet":
        return ast.Set([*node.elts, value])
    if how == "AddMap":
        return ast.Dict([*node.keys, values[0].expr], [*node.values, value])
    if how in ("UpdateDict", "MergeDict"):
        if isinstance(value, ast.Dict) and value.keys:
            return ast.Dict([*node.keys, *value.keys], [*node.values, *value.values])
        return ast.Dict([*node.keys, None], [*node.values, value])
    if isinstance(constant, (tuple, frozenset)) and len(constant) >= 3 and not node.elts:
        elements: "list[ast.expr]" = [stack.scope.literal(item) for item in constant]
    else:
        elements = [*node.elts, ast.Starred(value, LOAD)]
    return ast.List(elements, LOAD) if how == "Extend" else ast.Set(elements)


_METHODS = {
    "Append": "append", "AddSet": "add", "AddMap": "__setitem__", "Extend": "extend", "UpdateSet": "update",
    "UpdateDict": "update",
}  # fmt: skip


def _grow_statement(container: ast.expr, how: str, values: "list[Slot]") -> ast.stmt:
    if how == "MergeDict":  # a call of its own refuses what is given twice, as the call under way would
        merged: Any = ast.parse("(lambda **k: k)()", mode="eval").body
        merged.keywords = [ast.keyword(None, part) for part in (container, values[0].expr)]
        return ast.Assign([ast.Name(container.id, ast.Store())], merged)  # type: ignore[attr-defined]
    method = ast.Attribute(container, _METHODS[how], LOAD)
    statement = ast.Expr(ast.Call(method, [value.expr for value in values], []))
    statement.collects = True  # type: ignore[attr-defined]
    return statement


def list_to_tuple(stack: Stack, op: Op) -> None:
    (slot,) = stack.take(1)
    if isinstance(slot.expr, ast.List):
        stack.push("ordered", ast.Tuple(slot.expr.elts, LOAD), slot.reads, "listed")
    else:
        stack.push("ordered", ast.Tuple([ast.Starred(slot.expr, LOAD)], LOAD), slot.reads)


# -- calls


def call(stack: Stack, op: Op) -> None:
    count, keywords = op.arg
    if len(stack.slots) <= count:
        raise Unstructured("stack underflow")
    callee = stack.slots[-count - 1]
    if callee.kind == "function" and count == 1 and stack.slots[-1].kind == "iter":
        stack.scope.comprehension(stack)
        return
    if callee.kind == "function" and generics.call(stack, count):
        return
    if callee.kind == "mark" and callee.data == "__build_class__":
        _build_class(stack, count, keywords)
        return
    if count == 1 and not keywords and stack.slots[-1].kind in ("function", "class") and _decorates(stack):
        return
    slots = stack.take(count + 1)
    args = [slot.expr for slot in slots[1:]]
    positional = args[: len(args) - len(keywords)]
    named = [ast.keyword(word, value) for word, value in zip(keywords, args[len(positional) :])]
    combine(stack, ast.Call(slots[0].expr, positional, named), slots)


def _decorates(stack: Stack) -> bool:
    made = stack.slots[-1]
    if made.kind == "function" and made.data.code.co_name.startswith("<"):
        return False
    stack.slots.pop()
    (decorator,) = stack.take(1)
    new = copy.copy(made.data)
    new.decorators = (decorator.expr, *new.decorators)
    stack.slots.append(Slot(made.kind, None, made.reads | decorator.reads, new))
    return True


def _build_class(stack: Stack, count: int, keywords: "tuple[str, ...]") -> None:
    base = len(stack.slots) - count
    function = stack.slots[base]
    if function.kind != "body" or stack.slots[base + 1].kind != "const":
        raise Unstructured("a class is built from something else than a class body")
    title = stack.slots[base + 1].data[0]
    slots = stack.take(count - 2 - generics.without_base(stack, count))
    del stack.slots[base - 1 :]
    args = [slot.expr for slot in slots]
    positional = args[: len(args) - len(keywords)]
    named = [ast.keyword(word, value) for word, value in zip(keywords, args[len(positional) :])]
    _push_class(stack, slots, Class(function.data, title, positional, named))


def _push_class(stack: Stack, slots: "list[Slot]", made: Class) -> None:
    if stack.scope.generic:
        made.generic = Generic(stack.scope, stack.scope.kept[".type_params"].data)
    stack.push("class", None, reads(slots), made)


def _build_class_ex(stack: Stack, *, mapping: bool) -> None:
    """A class statement with ``*bases`` or ``**keywords``."""
    slots = stack.take(2 if mapping else 1)
    given: "list[Any]" = slots[0].expr.elts if isinstance(slots[0].expr, ast.Tuple) else [None, None]
    first, title, *bases = given
    if not hasattr(first, "body") or not _is_text(title):
        raise Unstructured("a class is built from something else than a class body")
    stack.slots.pop()
    keywords = _keywords(slots[1]) if mapping else []
    _push_class(stack, slots, Class(first.body, title.value, bases, keywords))


def call_ex(stack: Stack, op: Op) -> None:
    count = 3 if op.arg else 2
    if len(stack.slots) >= count and stack.slots[-count].data == "__build_class__":
        _build_class_ex(stack, mapping=bool(op.arg))
        return
    slots = stack.take(count)
    expand = bool(op.arg) or slots[1].data == "listed"
    keywords = _keywords(slots[2]) if op.arg else []
    combine(stack, ast.Call(slots[0].expr, _arguments(stack, slots[1], expand=expand), keywords), slots)


def _arguments(stack: Stack, slot: Slot, *, expand: bool) -> "list[ast.expr]":
    if slot.kind == "const" and slot.data == ((),):
        return []
    if expand and isinstance(slot.expr, ast.Tuple):
        return list(slot.expr.elts)
    return [ast.Starred(slot.expr, LOAD)]


def _keywords(slot: Slot) -> "list[ast.keyword]":
    node = slot.expr
    plain = isinstance(node, ast.Dict) and all(key is None or _is_text(key) for key in node.keys)
    if slot.kind != "owned" or not plain:
        return [ast.keyword(None, node)]
    return [
        ast.keyword(None if key is None else key.value, value) for key, value in zip(node.keys, node.values)
    ]


# -- functions


def make_function(stack: Stack, op: Op) -> None:
    code_slot = stack.slots.pop()
    if not is_code(code_slot.data):  # 3.9 and 3.10 push the qualified name above the code
        code_slot = stack.slots.pop()
    if not is_code(code_slot.data):
        raise Unstructured("a function is made from something else than a code constant")
    parts: "dict[str, ast.expr]" = {}
    taken: "list[Slot]" = []
    wanted = list(op.arg)
    if "closure" in wanted:
        if not stack.slots or stack.slots[-1].kind != "cells":
            raise Unstructured("a function is made over foreign cells")
        stack.slots.pop()
        wanted.remove("closure")
    taken = stack.take(len(wanted))
    for part, slot in zip(wanted, taken):
        parts[part] = slot.expr
    _push_function(stack, reads(taken), Function(code_slot.data, parts))


def _push_function(stack: Stack, read: "frozenset[str]", made: Function) -> None:
    """The body of a class is no value: nothing is evaluated with it that could change places."""
    opens = bool(stack.slots) and stack.slots[-1].data == "__build_class__"
    stack.push("body" if opens else "function", None, read, made)


def function_part(stack: Stack, op: Op) -> None:
    """3.13: one part of a function, set after it is made: the value lies below the function."""
    made = stack.slots.pop()
    if made.kind not in ("function", "body"):
        raise Unstructured("a part is set on something else than a new function")
    if op.arg == "closure":
        if not stack.slots or stack.slots[-1].kind != "cells":
            raise Unstructured("a function is made over foreign cells")
        stack.slots.pop()
        _push_function(stack, made.reads, made.data)
        return
    part = op.arg
    if part == "annotate":
        try:
            stack.slots[-1] = stack.scope.annotations(stack.slots[-1])
            part = "annotations"
        except Unstructured:  # then it stays a function, and is set as one
            pass
    (value,) = stack.take(1)
    parts = {**made.data.parts, part: value.expr}
    stack.push("function", None, made.reads | value.reads, Function(made.data.code, parts))


# -- imports


def import_name(stack: Stack, op: Op) -> None:
    fromlist, level = stack.slots.pop(), stack.slots.pop()
    if fromlist.kind != "const" or level.kind != "const":
        raise Unstructured("an import with computed arguments")
    stack.push("module", None, NONE, Import(op.arg, level.data[0], fromlist.data[0]))


def import_from(stack: Stack, op: Op) -> None:
    slot = stack.slots[-1] if stack.slots else None
    if slot is None or slot.kind not in ("module", "imported"):
        raise Unstructured("a name is imported from something else than an import")
    whole = slot.data if slot.kind == "module" else slot.data[0]
    stack.push("imported", None, NONE, (whole, op.arg))


def import_star(stack: Stack, op: Op) -> None:
    slot = stack.slots.pop()
    if slot.kind != "module":
        raise Unstructured("a star import from something else than an import")
    stack.emit(ast.ImportFrom(slot.data.module or None, [ast.alias("*", None)], slot.data.level))


def load_special(stack: Stack, op: Op) -> None:
    raise Unstructured(f"{op.name} outside its idiom")


def super_attribute(stack: Stack, op: Op) -> None:
    """``super().x`` and ``super(C, self).x`` in one instruction (3.12 and later)."""
    attribute, explicit = op.arg
    slots = stack.take(3)
    arguments = [slot.expr for slot in slots[1:]] if explicit else []
    combine(stack, ast.Attribute(ast.Call(slots[0].expr, arguments, []), attribute, LOAD), slots)


BUILDERS: "dict[str, Any]" = {
    "Build": build, "ConstKeyMap": const_key_map, "Append": grow, "AddSet": grow, "AddMap": grow,
    "Extend": grow,
    "UpdateSet": grow, "UpdateDict": grow, "MergeDict": grow, "ListToTuple": list_to_tuple, "Call": call,
    "CallEx": call_ex, "MakeFunction": make_function, "FunctionPart": function_part,
    "ImportName": import_name,
    "ImportFrom": import_from, "ImportStar": import_star, "SuperAttr": super_attribute,
    "Intrinsic": generics.intrinsic, "Interpolation": templates.interpolation,
    "BuildTemplate": templates.template,
}  # fmt: skip
