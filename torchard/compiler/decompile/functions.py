"""Nested code objects as syntax: ``def``, ``lambda``, ``class``, comprehensions; and whole bodies."""

import ast
import sys
from types import CodeType
from typing import Any

from torchard.compiler.decompile import cfg, dispatch, idioms
from torchard.compiler.decompile.annotations import complete, plain, stored_name, written
from torchard.compiler.decompile.flow import Malformed, clean
from torchard.compiler.decompile.made import Class, Function, parameters
from torchard.compiler.decompile.protect import Protection
from torchard.compiler.decompile.reader import read
from torchard.compiler.decompile.scope import Scope
from torchard.compiler.decompile.slots import Impure, Unstructured
from torchard.compiler.decompile.structure import Structure

_DOCSTRING = 0x4000000


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
    unmentioned = _unmentioned(scope, statements)
    parameters_of_types = sorted(cell for cell in unmentioned if scope.is_type_parameter(cell))
    scope.stored |= unmentioned.difference(parameters_of_types)
    statements = head + scope.declarations() + statements
    if parameters_of_types:  # these cannot be declared
        mentions: "list[ast.stmt]" = [ast.Expr(ast.Name(cell, ast.Load())) for cell in parameters_of_types]
        statements.append(ast.If(ast.Constant(False), mentions, []))
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
    notes = {title: plain(kind, code) for title, kind in _pairs(parts.get("annotations")).items()}
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


def _set_later(parts: "dict[str, ast.expr]") -> "tuple[dict[str, ast.expr], list[ast.expr]]":
    """Parts that lie in variables (of a dispatch loop), or whose names do, are set by decorators; return the
    other parts, and these."""
    kept, setters = dict(parts), []
    for part, node in parts.items():
        if isinstance(node, ast.Tuple) and part == "defaults":
            continue
        pairs = _key_values(node)
        if pairs or part == "annotations":
            if all(isinstance(key, ast.Constant) for key, _ in pairs):
                continue
            node = ast.Dict([key for key, _ in pairs], [value for _, value in pairs])
        setter: Any = ast.parse(f"(lambda v: lambda f: f.__setattr__('__{part}__', v) or f)(0)", mode="eval")
        setter.body.args = [node]
        setters.append(setter.body)
        del kept[part]
    return kept, setters


def _elements(node: Any) -> "list[ast.expr]":
    return list(node.elts) if isinstance(node, ast.Tuple) else []


def _pairs(node: Any) -> "dict[str, ast.expr]":
    """Annotations are a flat tuple (a dict in 3.9), keyword defaults a dict."""
    return {key.value: value for key, value in _key_values(node)}


def _key_values(node: Any) -> "list[tuple[Any, ast.expr]]":
    if isinstance(node, ast.Dict):
        return list(zip(node.keys, node.values))
    items = _elements(node)
    return list(zip(items[::2], items[1::2]))


def returned(parts: "dict[str, ast.expr]") -> Any:
    """Return the annotation of the result, if there is one."""
    return _pairs(parts.get("annotations")).get("return")


def function_statement(scope: Scope, made: Function, own: str) -> ast.stmt:
    """Return the ``def`` of a nested function."""
    code = made.code
    if code.co_name.startswith("<") and own == code.co_name:
        raise Unstructured(f"{code.co_name} in the place of a def")
    child = Scope(code, made.generic.scope if made.generic is not None else scope)
    kind: Any = ast.AsyncFunctionDef if code.co_flags & 0x280 else ast.FunctionDef
    parts, setters = _set_later(made.parts)
    returns = returned(parts)
    if returns is not None:
        returns = plain(returns, code)
    fields: "dict[str, Any]" = {"name": own, "args": arguments(code, parts), "body": body(child),
              "decorator_list": [*made.decorators, *setters], "returns": returns}  # fmt: skip
    if "type_params" in kind._fields:
        fields["type_params"] = parameters(made)
    return kind(**fields)


def class_statement(scope: Scope, made: Class, own: str) -> ast.stmt:
    """Return the ``class`` of a class body."""
    child = Scope(made.function.code, made.generic.scope if made.generic is not None else scope)
    statements = class_body(structured(child), child, generic=made.generic is not None)
    fields: "dict[str, Any]" = {"name": own, "bases": made.bases, "keywords": made.keywords,
              "body": statements,
              "decorator_list": list(made.decorators)}  # fmt: skip
    if "type_params" in ast.ClassDef._fields:
        fields["type_params"] = parameters(made)
    return ast.ClassDef(**fields)


def class_maker(scope: Scope, made: Class, own: str) -> ast.stmt:
    """Return a function that makes the class of bases and keywords that are evaluated later, and is called as
    Python's own ``__build_class__`` is, with the body and the title first."""
    words = [scope.settings.special(word) for word in ("body", "title", "bases", "keywords")]
    made.bases = [ast.Starred(ast.Name(words[2], ast.Load()), ast.Load())]
    made.keywords = [ast.keyword(None, ast.Name(words[3], ast.Load()))]
    statement: Any = class_statement(scope, made, made.title)
    texts = [text for text in made.function.code.co_consts if isinstance(text, str)]
    qualified = next((text for text in texts if text.rsplit(".", 1)[-1] == made.title), made.title)
    place = int(isinstance(statement.body[0], ast.Expr) and isinstance(statement.body[0].value, ast.Constant))
    statement.body.insert(place, ast.Assign([ast.Name("__qualname__", ast.Store())], ast.Constant(qualified)))
    maker: Any = ast.parse(f"def {own}({words[0]}, {words[1]}, *{words[2]}, **{words[3]}): pass").body[0]
    maker.body = [statement, ast.Return(ast.Name(made.title, ast.Load()))]
    return maker


_HEAD = ("__module__", "__qualname__", "__firstlineno__")
_TAIL = ("__static_attributes__", "__classcell__", "__classdictcell__")


def class_body(statements: "list[ast.stmt]", scope: Scope, *, generic: bool) -> "list[ast.stmt]":
    """Drop what the compiler adds to a class body: module, qualified name, class cell, and the return."""
    kept: "list[ast.stmt]" = []
    head = (*_HEAD, "__type_params__") if generic else _HEAD
    statements = _through(statements)
    if scope.annotated:
        statements = written(statements, scope.code)
    for statement in statements:
        title = stored_name(statement)
        if title in head and len(kept) == 0:
            continue
        if title == "__doc__" and not kept and isinstance(statement.value, ast.Constant):  # type: ignore[attr-defined]
            statement = ast.Expr(statement.value)  # type: ignore[attr-defined]
        kept.append(statement)
    complete(kept, scope)
    declared = scope.declarations()
    place = 1 if kept and isinstance(kept[0], ast.Expr) and isinstance(kept[0].value, ast.Constant) else 0
    return kept[:place] + declared + kept[place:] or [ast.Pass()]


def _through(statements: "list[ast.stmt]") -> "list[ast.stmt]":
    """Take away what ends every way through a class body: it is there once for each branch at the end."""
    kept: "list[ast.stmt]" = []
    for place, statement in enumerate(statements):
        rest = statements[place + 1 :]
        if isinstance(statement, ast.Return) or stored_name(statement) in _TAIL:
            continue
        if isinstance(statement, ast.If) and rest and not statement.orelse and _ends(statement.body):
            statement.orelse, rest = rest, []
            kept.append(statement)
            _through_parts(statement)
            break
        if not rest and isinstance(statement, (ast.If, ast.Try, ast.With)):
            _through_parts(statement)
        kept.append(statement)
    return kept


def _through_parts(statement: Any) -> None:
    for handler in getattr(statement, "handlers", []):
        handler.body = _through(handler.body) or [ast.Pass()]
    for part in ("orelse", "finalbody"):
        if hasattr(statement, part):
            setattr(statement, part, _through(getattr(statement, part)))
    statement.body = _through(statement.body) or [ast.Pass()]


def _ends(statements: "list[ast.stmt]") -> bool:
    last = statements[-1] if statements else None
    if isinstance(last, ast.If):
        ways = [_ends(part) for part in (last.body, last.orelse)]
        return any(ways) and all(
            way or (part and isinstance(part[-1], ast.Raise))
            for way, part in zip(ways, (last.body, last.orelse))
        )
    return isinstance(last, ast.Return)


def lambda_expression(scope: Scope, made: Function) -> ast.expr:
    """Return the ``lambda`` of its code."""
    child = Scope(made.code, scope)
    parts, setters = _set_later(made.parts)
    node: ast.expr = ast.Lambda(arguments(made.code, parts), as_expression(structured(child)))
    for setter in setters:
        node = ast.Call(setter, [node], [])
    return node


def as_expression(statements: "list[ast.stmt]") -> ast.expr:
    """One expression for a body whose every way ends in a return."""
    if not statements:
        return ast.Constant(None)
    first = statements[0]
    if isinstance(first, ast.Return):
        return first.value or ast.Constant(None)
    if isinstance(first, ast.If):
        yes = as_expression(first.body)
        no = as_expression(first.orelse or statements[1:])
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
