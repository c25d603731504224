"""Template strings (Python 3.14): interpolations, and the templates made of them.

An interpolation keeps the text of its expression. What was written so is written so again; where text and
value do not agree (the value lies in a temporary), the classes behind the syntax are called instead.
"""

import ast
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, combine, name, reads

_SYNTAX: Any = ast  # the nodes of templates are newer than the oldest Python this module is read by
_ONE = "t'{0}'.interpolations[0].__class__"
_WHOLE = "t''.__class__"


def specification(spec: ast.expr) -> ast.JoinedStr:
    """Return the format specification that evaluates to ``spec``."""
    if isinstance(spec, ast.JoinedStr):
        return spec
    plain = isinstance(spec, ast.Constant) and isinstance(spec.value, str)
    return ast.JoinedStr([spec if plain else ast.FormattedValue(spec, -1, None)])


def interpolation(stack: Stack, op: Op) -> None:
    """``{value!conversion:spec}`` with the text of its expression."""
    conversion, has_spec = op.arg
    slots = stack.take(3 if has_spec else 2)
    value, text = slots[0].expr, slots[1].expr
    spec = slots[2].expr if has_spec else None
    arguments = [value, text, ast.Constant(conversion or None), *([spec] if spec is not None else [])]
    called = ast.Call(_class(_ONE), arguments, [])
    shown = specification(spec) if spec is not None else None
    node = None
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        number = ord(conversion) if conversion else -1
        node = _SYNTAX.Interpolation(value, text.value, number, shown)
        if not _reads_back(node, stack.scope.mangler()):
            node = None
    stack.push("interpolation", called, reads(slots), node)


def _class(path: str) -> ast.expr:
    return ast.parse(path, mode="eval").body


def _reads_back(node: Any, mangler: str) -> bool:
    """Does the text of the interpolation mean its value?"""
    try:
        ast.fix_missing_locations(node)
        whole: Any = ast.parse(ast.unparse(_SYNTAX.TemplateStr([node])), mode="eval").body
        (again,) = whole.values
        if mangler:
            _mangle(again.value, mangler)
        return bool(again.str == node.str and ast.unparse(again.value) == ast.unparse(node.value))
    except (SyntaxError, ValueError, AssertionError):
        return False


def _mangle(root: ast.AST, mangler: str) -> None:
    """Do what the compiler does with ``__private`` names inside a class."""
    for node in ast.walk(root):
        for field in ("id", "attr", "arg"):
            text = getattr(node, field, None)
            if isinstance(text, str) and text.startswith("__") and not text.endswith("__"):
                setattr(node, field, mangler + text)


def build(stack: Stack, count: int) -> bool:
    """A tuple of interpolations?"""
    slots = stack.slots[-count:]
    if not all(slot.kind == "interpolation" for slot in slots):
        return False
    nodes = [slot.data for slot in slots]
    taken = stack.take(count)
    exprs = ast.Tuple([slot.expr for slot in taken], ast.Load())
    if any(slot.kind != "ordered" for slot in taken) or None in nodes:  # some went to temporaries
        combine(stack, exprs, taken)
    else:
        stack.push("interpolations", exprs, reads(taken), nodes)
    return True


def template(stack: Stack, op: Op) -> None:
    """A template of strings and, between them, interpolations."""
    strings, parts = stack.slots[-2:]
    nodes = [] if parts.kind == "const" and parts.data == ((),) else parts.data
    literal = strings.kind == "const" and isinstance(strings.data[0], tuple)
    if parts.kind not in ("const", "interpolations") or not literal or len(nodes) != len(strings.data[0]) - 1:
        _call(stack)
        return
    stack.settle(len(stack.slots) - 1)
    slots = stack.take(2)
    if slots[1].kind not in ("const", "ordered"):
        raise Unstructured("a template whose interpolations were kept")
    combine(stack, _SYNTAX.TemplateStr(_between(strings.data[0], nodes)), slots)


def _between(strings: "tuple[str, ...]", nodes: "list[Any]") -> "list[Any]":
    values: "list[Any]" = []
    for place, text in enumerate(strings):
        if text:
            values.append(ast.Constant(text))
        values += nodes[place : place + 1]
    return values


def _call(stack: Stack) -> None:
    """The class of templates called with strings and interpolations in turn."""
    slots: "list[Slot]" = stack.take(2)
    if not isinstance(slots[1].expr, ast.Tuple):
        raise Unstructured("a template of computed interpolations")
    made: Any = ast.parse("(lambda s, i: s)(s, i)", mode="eval").body
    arguments = [_part("s", 0)]
    for place in range(len(slots[1].expr.elts)):
        arguments += [_part("i", place), _part("s", place + 1)]
    made.func.body = ast.Call(_class(_WHOLE), arguments, [])
    made.args = [slot.expr for slot in slots]
    combine(stack, made, slots)


def _part(whole: str, place: int) -> ast.expr:
    return ast.Subscript(name(whole), ast.Constant(place), ast.Load())
