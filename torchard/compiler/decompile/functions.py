"""Nested code objects as syntax: ``def``, ``lambda``, ``class``, comprehensions; and whole bodies."""

import __future__

import ast
import sys
from types import CodeType
from typing import Any

from torchard.compiler.decompile import cfg, dispatch, idioms
from torchard.compiler.decompile.displays import Class, Function
from torchard.compiler.decompile.flow import Malformed, clean
from torchard.compiler.decompile.protect import Protection
from torchard.compiler.decompile.reader import read
from torchard.compiler.decompile.scope import Scope
from torchard.compiler.decompile.slots import Impure, Unstructured
from torchard.compiler.decompile.structure import Structure

_DOCSTRING = 0x4000000
_FUTURE_ANNOTATIONS = __future__.annotations.compiler_flag


def structured(scope: Scope) -> "list[ast.stmt]":
    """Return the body of the scope's code with its control flow recovered.

    Raises:
        Unstructured: if that fails; the reason is in the message.
    """
    try:
        flow = idioms.fold(clean(read(scope.code)))
        protection = Protection(flow.ops, flow.stacks)
        graph = cfg.build(flow.ops, flow.stacks, protection)
        return Structure(scope, graph, protection).statements()
    except (Malformed, Impure, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise Unstructured(f"{type(error).__name__}: {error}") from error


def body(scope: Scope) -> "list[ast.stmt]":
    """Return the body of a nested function: structured if possible, else as a dispatch loop."""
    settings = scope.settings
    if settings.dispatch_nested(scope.code):
        statements = dispatch.statements(scope)
    else:
        try:
            statements = structured(scope)
        except Unstructured as reason:
            if scope.is_class:
                raise
            settings.unstructured.append(f"{scope.code.co_name}: {reason}")
            scope.globals.clear()
            scope.stored.clear()
            statements = dispatch.statements(scope)
    return finish(scope, statements)


def finish(scope: Scope, statements: "list[ast.stmt]") -> "list[ast.stmt]":
    """Put declarations and docstring before, drop the ``return None`` that every function ends with."""
    last = statements[-1] if statements else None
    if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant) and last.value.value is None:
        statements = statements[:-1]
    elif isinstance(last, ast.Return) and last.value is None:
        statements = statements[:-1]
    head: "list[ast.stmt]" = []
    text = docstring(scope.code)
    if text is not None:
        head.append(ast.Expr(ast.Constant(text)))
    scope.stored |= _unmentioned(scope, statements)
    statements = head + scope.declarations() + statements
    kinds = scope.code.co_flags
    if kinds & 0x220 and not _yields(statements):
        statements = [*statements, *_unreached_yield()]
    return statements or [ast.Pass()]


def _unmentioned(scope: Scope, statements: "list[ast.stmt]") -> "set[str]":
    """Free variables that no statement names (their use was compiled away) must be declared to stay free."""
    missing = set(scope.code.co_freevars)
    if not missing:
        return missing
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                missing.discard(node.id)
                if node.id == "super":
                    missing.discard("__class__")
            elif isinstance(node, ast.ExceptHandler) and node.name:
                missing.discard(node.name)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                missing.discard(node.name)
    return missing


def docstring(code: CodeType) -> "str | None":
    """Return the docstring that ``code`` gives its function."""
    if sys.version_info >= (3, 14):
        return code.co_consts[0] if code.co_flags & _DOCSTRING else None  # type: ignore[no-any-return]
    first = code.co_consts[0] if code.co_consts else None
    named = not code.co_name.startswith("<")
    return first if isinstance(first, str) and named and code.co_flags & 0x2 else None


def _yields(statements: "list[ast.stmt]") -> bool:
    todo: "list[Any]" = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        todo.extend(ast.iter_child_nodes(node))
    return False


def _unreached_yield() -> "list[ast.stmt]":
    """A generator whose every ``yield`` was unreachable still is a generator."""
    return [ast.Return(None), ast.Expr(ast.Yield(None))]


# -- functions


def arguments(code: CodeType, parts: "dict[str, ast.expr]") -> ast.arguments:
    """Return the parameter list: names from the code, defaults and annotations from ``parts``."""
    names = code.co_varnames
    count, keyword_only = code.co_argcount, code.co_kwonlyargcount
    notes = {title: _plain(kind, code) for title, kind in _pairs(parts.get("annotations")).items()}
    nodes = [ast.arg(title, notes.get(title)) for title in names[: count + keyword_only]]
    rest = list(names[count + keyword_only :])
    star = ast.arg(rest.pop(0), notes.get(names[count + keyword_only])) if code.co_flags & 4 else None
    stars = ast.arg(rest[0], notes.get(rest[0])) if code.co_flags & 8 else None
    keywords = _pairs(parts.get("kwdefaults"))
    return ast.arguments(
        posonlyargs=nodes[: code.co_posonlyargcount],
        args=nodes[code.co_posonlyargcount : count],
        vararg=star,
        kwonlyargs=nodes[count:],
        kw_defaults=[keywords.get(node.arg) for node in nodes[count:]],
        kwarg=stars,
        defaults=_elements(parts.get("defaults")),
    )


def _elements(node: Any) -> "list[ast.expr]":
    return list(node.elts) if isinstance(node, ast.Tuple) else []


def _pairs(node: Any) -> "dict[str, ast.expr]":
    """Annotations are a flat tuple (a dict in 3.9), keyword defaults a dict."""
    if isinstance(node, ast.Dict):
        return {key.value: value for key, value in zip(node.keys, node.values)}  # type: ignore[union-attr]
    items = _elements(node)
    return {key.value: value for key, value in zip(items[::2], items[1::2])}  # type: ignore[attr-defined]


def returned(parts: "dict[str, ast.expr]") -> Any:
    """Return the annotation of the result, if there is one."""
    return _pairs(parts.get("annotations")).get("return")


def function_statement(scope: Scope, made: Function, own: str) -> ast.stmt:
    """Return the ``def`` of a nested function."""
    code = made.code
    if code.co_name.startswith("<") and own == code.co_name:
        raise Unstructured(f"{code.co_name} in the place of a def")
    child = Scope(code, scope)
    kind: Any = ast.AsyncFunctionDef if code.co_flags & 0x280 else ast.FunctionDef
    returns = returned(made.parts)
    if returns is not None:
        returns = _plain(returns, code)
    fields: "dict[str, Any]" = {"name": own, "args": arguments(code, made.parts), "body": body(child),
              "decorator_list": list(made.decorators), "returns": returns}  # fmt: skip
    if "type_params" in kind._fields:
        fields["type_params"] = []
    return kind(**fields)


def class_statement(scope: Scope, made: Class, own: str) -> ast.stmt:
    """Return the ``class`` of a class body."""
    child = Scope(made.function.code, scope)
    statements = class_body(structured(child), child)
    fields: "dict[str, Any]" = {"name": own, "bases": made.bases, "keywords": made.keywords,
              "body": statements,
              "decorator_list": list(made.decorators)}  # fmt: skip
    if "type_params" in ast.ClassDef._fields:
        fields["type_params"] = []
    return ast.ClassDef(**fields)


_HEAD = ("__module__", "__qualname__", "__firstlineno__")
_TAIL = ("__static_attributes__", "__classcell__", "__classdictcell__")


def class_body(statements: "list[ast.stmt]", scope: Scope) -> "list[ast.stmt]":
    """Drop what the compiler adds to a class body: module, qualified name, class cell, and the return."""
    kept: "list[ast.stmt]" = []
    if scope.annotated:
        statements = _annotated(statements, scope.code)
    for statement in statements:
        title = _stored_name(statement)
        if isinstance(statement, ast.Return) or (title in _HEAD and len(kept) == 0) or title in _TAIL:
            continue
        if title == "__doc__" and not kept and isinstance(statement.value, ast.Constant):  # type: ignore[attr-defined]
            statement = ast.Expr(statement.value)  # type: ignore[attr-defined]
        kept.append(statement)
    declared = scope.declarations()
    place = 1 if kept and isinstance(kept[0], ast.Expr) and isinstance(kept[0].value, ast.Constant) else 0
    return kept[:place] + declared + kept[place:] or [ast.Pass()]


def _annotated(statements: "list[ast.stmt]", code: CodeType) -> "list[ast.stmt]":
    """``x = value`` and ``__annotations__['x'] = kind`` are one annotated assignment."""
    result: "list[ast.stmt]" = []
    for statement in statements:
        title, kind = _annotation(statement)
        if title is None:
            result.append(statement)
            continue
        before = result[-1] if result else None
        value = before.value if isinstance(before, ast.Assign) and _stored_name(before) == title else None
        if value is not None:
            result.pop()
        result.append(ast.AnnAssign(ast.Name(title, ast.Store()), _plain(kind, code), value, 1))
    return result


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


def _plain(kind: ast.expr, code: CodeType) -> ast.expr:
    """Under ``from __future__ import annotations`` the compiler keeps text: give it back as an expression."""
    if code.co_flags & _FUTURE_ANNOTATIONS and isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        try:
            return ast.parse(kind.value, mode="eval").body
        except SyntaxError:
            return kind
    return kind


def _stored_name(statement: ast.stmt) -> Any:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def lambda_expression(scope: Scope, made: Function) -> ast.expr:
    """Return the ``lambda`` of its code."""
    child = Scope(made.code, scope)
    statements = structured(child)
    return ast.Lambda(arguments(made.code, made.parts), _as_expression(statements))


def _as_expression(statements: "list[ast.stmt]") -> ast.expr:
    """One expression for a body whose every way ends in a return."""
    if not statements:
        return ast.Constant(None)
    first = statements[0]
    if isinstance(first, ast.Return):
        return first.value or ast.Constant(None)
    if isinstance(first, ast.If):
        yes = _as_expression(first.body)
        no = _as_expression(first.orelse or statements[1:])
        return ast.IfExp(first.test, yes, no)
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Yield) and len(statements) <= 2:
        return first.value
    raise Unstructured("a lambda with statements")


# -- comprehensions

_KINDS: "dict[str, Any]" = {
    "<listcomp>": ast.ListComp,
    "<setcomp>": ast.SetComp,
    "<genexpr>": ast.GeneratorExp,
}


def comprehension_expression(
    scope: Scope, made: Function, iterable: ast.expr, *, asynchronous: bool
) -> ast.expr:
    """Return the comprehension that the compiler made a function of."""
    child = Scope(made.code, scope)
    statements = structured(child)
    if child.globals:
        raise Unstructured("a comprehension with declarations")
    kind = made.code.co_name
    if kind != "<genexpr>":
        statements = statements[1:]  # the empty display
    loop = statements[0] if statements else None
    if not isinstance(loop, (ast.For, ast.AsyncFor)):
        raise Unstructured("a comprehension without its loop")
    loop.iter = iterable
    return from_loop(kind, loop)


def from_loop(kind: str, loop: Any) -> ast.expr:
    """Turn nested loops and tests around one collected value into a comprehension."""
    generators: "list[ast.comprehension]" = []
    node: Any = loop
    while True:
        if isinstance(node, (ast.For, ast.AsyncFor)):
            if node.orelse:
                raise Unstructured("a comprehension with an else")
            generators.append(
                ast.comprehension(node.target, node.iter, [], int(isinstance(node, ast.AsyncFor)))
            )
        elif isinstance(node, ast.If):
            if node.orelse:
                raise Unstructured("a comprehension with an else")
            generators[-1].ifs.append(node.test)
        else:
            break
        if len(node.body) != 1:
            raise Unstructured("a comprehension with statements")
        node = node.body[0]
    if not isinstance(node, ast.Expr):
        raise Unstructured("a comprehension with statements")
    return _collected(kind, node, generators)


def _collected(kind: str, node: ast.Expr, generators: "list[ast.comprehension]") -> ast.expr:
    value: Any = node.value
    if kind == "<genexpr>":
        if not isinstance(value, ast.Yield):
            raise Unstructured("a generator expression that yields otherwise")
        return ast.GeneratorExp(value.value or ast.Constant(None), generators)
    if not getattr(node, "collects", False):
        raise Unstructured("a comprehension with statements")
    if kind == "<dictcomp>":
        return ast.DictComp(value.args[0], value.args[1], generators)
    return _KINDS[kind](value.args[0], generators)
