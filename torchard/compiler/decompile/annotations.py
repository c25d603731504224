"""Annotations of a class body: made as it runs, or (3.14) by a function that is run when they are asked."""

import __future__

import ast
from types import CodeType
from typing import Any

from torchard.compiler.decompile import generics
from torchard.compiler.decompile.slots import Unstructured
from torchard.compiler.decompile.stack import Stack, same

_FUTURE = __future__.annotations.compiler_flag
_CONDITIONAL = "__conditional_annotations__"


def written(statements: "list[ast.stmt]", code: CodeType) -> "list[ast.stmt]":
    """Up to 3.13, ``x = value`` and ``__annotations__['x'] = kind`` are one annotated assignment."""
    result: "list[ast.stmt]" = []
    for statement in statements:
        title, kind = _annotation(statement)
        if title is None:
            _written_inside(statement, code)
            result.append(statement)
            continue
        before = result[-1] if result else None
        value = before.value if isinstance(before, ast.Assign) and stored_name(before) == title else None
        if value is not None:
            result.pop()
        result.append(ast.AnnAssign(ast.Name(title, ast.Store()), plain(kind, code), value, 1))
    return result


def _written_inside(statement: Any, code: CodeType) -> None:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for field in ("body", "orelse", "finalbody"):
        if isinstance(getattr(statement, field, None), list):
            setattr(statement, field, written(getattr(statement, field), code))
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        _written_inside(part, code)


def _annotation(statement: ast.stmt) -> "tuple[Any, Any]":
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
        key = target.slice.value if not isinstance(target.slice, ast.expr) else target.slice
        if (
            target.value.id == "__annotations__"
            and isinstance(key, ast.Constant)
            and isinstance(key.value, str)
        ):
            return key.value, statement.value  # type: ignore[attr-defined]
    return None, None


def plain(kind: ast.expr, code: CodeType) -> ast.expr:
    """Under ``from __future__ import annotations`` the compiler keeps text: give it back as an expression."""
    if code.co_flags & _FUTURE and isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        try:
            if kind.value.startswith("*"):  # of `*args: *Ts`
                return ast.Starred(ast.parse(kind.value[1:], mode="eval").body, ast.Load())
            return ast.parse(kind.value, mode="eval").body
        except SyntaxError:
            return kind
    return kind


def stored_name(statement: ast.stmt) -> Any:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


# -- 3.14


def store(stack: Stack, identifier: str) -> bool:
    """Keep the function that a class gives its annotations by, and drop the set of those that were reached:
    both belong to annotations, which stand in the body."""
    slot, scope = stack.slots[-1], stack.scope
    if not scope.is_class:
        return False
    if identifier == "__annotate_func__" and slot.kind == "function":
        scope.annotate = slot.data.code
    elif identifier != _CONDITIONAL or slot.kind != "owned":
        return False
    stack.slots.pop()
    return True


def load(stack: Stack, identifier: str) -> bool:
    """The set of annotations reached, under a branch of a class body."""
    if identifier != _CONDITIONAL or not stack.scope.is_class:
        return False
    stack.push("mark", data=_CONDITIONAL)
    return True


def reached(stack: Stack) -> bool:
    """An annotation under a branch is reached: it is written here, and what it says comes later."""
    if len(stack.slots) < 2 or stack.slots[-2].data != _CONDITIONAL or stack.slots[-1].kind != "const":
        return False
    number = stack.slots.pop().data[0]
    place = ast.AnnAssign(ast.Name("_", ast.Store()), ast.Constant(None), None, 1)
    place.number = number  # type: ignore[attr-defined]
    stack.emit(place)
    return True


def given(statements: "list[ast.stmt]") -> ast.Dict:
    """Return the dict that a function of annotations returns; what it kept in temporaries goes back to its
    place, for the proof to judge."""
    from torchard.compiler.decompile.functions import as_expression

    kept: "dict[str, ast.expr]" = {}
    while statements and isinstance(statements[0], ast.Assign):
        kept[stored_name(statements[0])] = _Put(kept).visit(statements[0].value)
        statements = statements[1:]
    return _Put(kept).visit(_joined(as_expression(statements)))


class _Put(ast.NodeTransformer):
    """Puts expressions into the places of names."""

    def __init__(self, kept: "dict[str, ast.expr]") -> None:
        self.kept = kept

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.kept.get(node.id, node)


def _joined(node: ast.expr) -> ast.Dict:
    """Annotations as one dict, where a condition inside one of them chose between two ends."""
    if isinstance(node, ast.Dict):
        return node
    if not isinstance(node, ast.IfExp):
        raise Unstructured("annotations of unknown form")
    yes, no = _joined(node.body), _joined(node.orelse)
    if not same(yes.keys, no.keys):
        raise Unstructured("annotations of unknown form")
    values = [
        one if same(one, two) else ast.IfExp(node.test, one, two) for one, two in zip(yes.values, no.values)
    ]
    return ast.Dict(yes.keys, values)


def complete(body: "list[ast.stmt]", scope: Any) -> None:
    """Write the annotations that the class's own function would return into its body, in their order."""
    if scope.annotate is None:
        return
    places: "dict[Any, Any]" = {
        node.number: node for one in body for node in ast.walk(one) if hasattr(node, "number")
    }
    at = 1 if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else 0
    for title, kind, number in _returned(scope):
        if number is not None:
            node = places.pop(number)
            node.target, node.annotation = ast.Name(title, ast.Store()), kind
            at = 1 + next(index for index, one in enumerate(body) if node in ast.walk(one))
            continue
        waiting = set(places.values())
        end = next((i for i in range(at, len(body)) if waiting & set(ast.walk(body[i]))), len(body))
        found = next((i for i in range(at, end) if _assigns(body[i], title)), None)
        value = None if found is None else body.pop(found).value  # type: ignore[attr-defined]
        at = at if found is None else found
        body.insert(at, ast.AnnAssign(ast.Name(title, ast.Store()), kind, value, 1))
        at += 1
    if places:
        raise Unstructured("annotations of unknown form")


def _assigns(statement: ast.stmt, title: str) -> bool:
    return (
        isinstance(statement, ast.Assign) and len(statement.targets) == 1 and stored_name(statement) == title
    )


def _returned(scope: Any) -> "list[tuple[str, ast.expr, Any]]":
    """Name, annotation, and number (of those under a branch) of what the function returns."""
    found: "list[tuple[str, ast.expr, Any]]" = []
    _new, *statements, _return = generics.lazily(scope, scope.annotate)
    for statement in statements:
        number = None
        if isinstance(statement, ast.If) and isinstance(statement.test, ast.Compare):
            asked: Any = statement.test
            if not isinstance(asked.left, ast.Constant) or len(statement.body) != 1 or statement.orelse:
                raise Unstructured("annotations of unknown form")
            number, statement = asked.left.value, statement.body[0]
        target: Any = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Subscript) or not isinstance(target.slice, ast.Constant):
            raise Unstructured("annotations of unknown form")
        found.append((target.slice.value, statement.value, number))  # type: ignore[attr-defined,arg-type]
    return found
