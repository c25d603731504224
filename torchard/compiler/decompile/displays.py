"""Displays, calls, functions and imports on the symbolic stack."""

import ast
from typing import Any

from torchard.compiler.decompile.literals import is_code
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import NONE, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, reads

LOAD = ast.Load()


class Import:
    """An import under way: IMPORT_NAME with the names taken from it so far."""

    def __init__(self, module: str, level: int, fromlist: Any) -> None:
        self.module = module
        self.level = level
        self.fromlist = fromlist
        self.names: "list[tuple[str, str]]" = []
        self.taken = False


class Function:
    """A function, lambda or comprehension made but not yet bound: its code and the parts evaluated with
    it."""

    def __init__(
        self, code: Any, parts: "dict[str, ast.expr]", decorators: "tuple[ast.expr, ...]" = ()
    ) -> None:
        self.code = code
        self.parts = parts
        self.decorators = decorators


class Class:
    """A class made but not yet bound."""

    def __init__(self, function: Function, title: str, bases: "list[ast.expr]", keywords: "list[ast.keyword]",
                 decorators: "tuple[ast.expr, ...]" = ()) -> None:  # fmt: skip
        self.function = function
        self.title = title
        self.bases = bases
        self.keywords = keywords
        self.decorators = decorators


# -- displays


def build(stack: Stack, op: Op) -> None:
    kind, count = op.arg
    if kind == "string":
        _build_string(stack, count)
        return
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


def _is_text(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and isinstance(expr.value, str)


def const_key_map(stack: Stack, op: Op) -> None:
    keys = stack.slots.pop().data[0]
    slots = stack.take(op.arg)
    node = ast.Dict([stack.scope.literal(key) for key in keys], [slot.expr for slot in slots])
    stack.push("owned", node, reads(slots))


def grow(stack: Stack, op: Op) -> None:
    """Add to a list, set or dict that is still being built, or that lies in a temporary."""
    if op.name == "Append" and stack.slots and stack.slots[-1].data == "rest":
        stack.slots.pop()  # what no ``except*`` clause took: Python keeps count of that itself
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
    if how == "MergeDict":
        raise Unstructured("keyword arguments are merged across statements")
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
    data = made.data
    if made.kind == "function":
        new: Any = Function(data.code, data.parts, (decorator.expr, *data.decorators))
    else:
        new = Class(data.function, data.title, data.bases, data.keywords, (decorator.expr, *data.decorators))
    stack.slots.append(Slot(made.kind, None, made.reads | decorator.reads, new))
    return True


def _build_class(stack: Stack, count: int, keywords: "tuple[str, ...]") -> None:
    base = len(stack.slots) - count
    function = stack.slots[base]
    if function.kind != "function" or stack.slots[base + 1].kind != "const":
        raise Unstructured("a class is built from something else than a class body")
    title = stack.slots[base + 1].data[0]
    slots = stack.take(count - 2)
    del stack.slots[base - 1 :]
    args = [slot.expr for slot in slots]
    positional = args[: len(args) - len(keywords)]
    named = [ast.keyword(word, value) for word, value in zip(keywords, args[len(positional) :])]
    stack.push("class", None, reads(slots), Class(function.data, title, positional, named))


def call_ex(stack: Stack, op: Op) -> None:
    count = 3 if op.arg else 2
    if (
        len(stack.slots) >= count
        and stack.slots[-count].kind == "mark"
        and stack.slots[-count].data == "__build_class__"
    ):
        raise Unstructured("a class is built with unpacked bases")
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
    stack.push("function", None, reads(taken), Function(code_slot.data, parts))


def function_part(stack: Stack, op: Op) -> None:
    """3.13: one part of a function, set after it is made: the value lies below the function."""
    made = stack.slots.pop()
    if made.kind != "function":
        raise Unstructured("a part is set on something else than a new function")
    if op.arg == "closure":
        if not stack.slots or stack.slots[-1].kind != "cells":
            raise Unstructured("a function is made over foreign cells")
        stack.slots.pop()
        stack.slots.append(made)
        return
    if op.arg == "annotate":
        stack.slots[-1] = stack.scope.annotations(stack.slots[-1])
    (value,) = stack.take(1)
    parts = {**made.data.parts, "annotations" if op.arg == "annotate" else op.arg: value.expr}
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
}  # fmt: skip
