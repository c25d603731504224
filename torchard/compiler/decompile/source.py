"""A code object as the text of one function, and that text as a code object again."""

import ast
import keyword
import re
import sys
import warnings
from types import CodeType
from typing import Any

from torchard.compiler.decompile import functions, literals
from torchard.compiler.decompile.patch import adopt, letters
from torchard.compiler.decompile.scope import Scope, Settings
from torchard.compiler.decompile.slots import Unstructured

FACTORY = "__closure__"
_FUTURE = 0x1FE0000  # every `from __future__` flag


def render(code: CodeType, settings: Settings, parts: "dict[str, ast.expr]", *, dispatch: bool) -> str:
    """Return the source of a module that defines the function of ``code`` (inside a factory if it has free
    variables).

    Raises:
        Unstructured: if the body cannot be written in the way asked for.
    """
    scope = Scope(code, settings=settings)
    if dispatch:
        from torchard.compiler.decompile import dispatch as fallback

        statements = fallback.statements(scope)
    else:
        statements = functions.structured(scope)
    statements = functions.finish(scope, statements)
    kind: Any = ast.AsyncFunctionDef if code.co_flags & 0x280 else ast.FunctionDef
    fields: "dict[str, Any]" = {"name": title(code), "args": functions.arguments(code, parts),
                                "body": statements,
                                "decorator_list": [], "returns": functions.returned(parts)}  # fmt: skip
    if "type_params" in kind._fields:
        fields["type_params"] = []
    node = kind(**fields)
    if code.co_freevars:
        node = _factory(code, node)
    _rename(node, shown_names(code))
    text = _unparse(node, settings)
    comments = _comments(settings)
    settings.line_map = _line_map(node, text, comments.count("\n"))
    return comments + text + "\n"


def _line_map(node: ast.stmt, text: str, shift: int) -> "dict[int, int]":
    """Lines of the text to lines of the original file: the statements of both trees come in the same
    order."""
    try:
        written = _statements(ast.parse(text).body[0])
    except (SyntaxError, RecursionError, MemoryError):
        return {}
    made = _statements(node)
    if len(made) != len(written):
        return {}
    lines = [(one.lineno + shift, getattr(two, "origin_line", None)) for one, two in zip(written, made)]
    return {shown: line for shown, line in lines if line is not None}


def _statements(root: ast.AST) -> "list[Any]":
    found: "list[Any]" = []
    todo: "list[ast.AST]" = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt):
            found.append(node)
        todo.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
    return found


def title(code: CodeType) -> str:
    """The name the function has in source: its own, if that is a name."""
    own = code.co_name
    if own.isidentifier() and not keyword.iskeyword(own):
        return own
    return f"__{letters(own) or 'code'}__"


def _factory(code: CodeType, inner: ast.stmt) -> ast.stmt:
    """Free variables are the parameters of a function around it."""
    cells = ast.arguments(posonlyargs=[], args=[ast.arg(cell, None) for cell in code.co_freevars],
                          kwonlyargs=[],
                          kw_defaults=[], defaults=[])  # fmt: skip
    fields: "dict[str, Any]" = {"name": FACTORY, "args": cells,
                                "body": [inner, ast.Return(ast.Name(inner.name, ast.Load()))],  # type: ignore[attr-defined]
                                "decorator_list": [], "returns": None}  # fmt: skip
    if "type_params" in ast.FunctionDef._fields:
        fields["type_params"] = []
    return ast.FunctionDef(**fields)


def _unparse(node: ast.stmt, settings: Settings) -> str:
    ast.fix_missing_locations(node)
    try:
        return ast.unparse(node)
    except ValueError:  # an f-string that could not be written before 3.12: it was a `%` once
        _percent(node)
        try:
            return ast.unparse(node)
        except ValueError as error:
            raise Unstructured(f"an f-string without source form: {error}") from None


def _percent(root: ast.AST) -> None:
    for parent in ast.walk(root):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.JoinedStr):
                setattr(parent, field, _as_percent(value))
            elif isinstance(value, list):
                value[:] = [_as_percent(item) if isinstance(item, ast.JoinedStr) else item for item in value]


def _as_percent(node: ast.JoinedStr) -> ast.expr:
    text = ""
    values: "list[ast.expr]" = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("%", "%%")
        elif (
            isinstance(part, ast.FormattedValue)
            and part.conversion in (115, 114, 97)
            and part.format_spec is None
        ):
            text += "%" + chr(part.conversion)
            values.append(part.value)
        else:
            return node
    return ast.BinOp(ast.Constant(text), ast.Mod(), ast.Tuple(values, ast.Load())) if values else node


def _comments(settings: Settings) -> str:
    lines = [
        f"# {sentinel} stands for {type(value).__name__}"
        for sentinel, value in settings.placeholders.used.items()
    ]
    if settings.plain_super and sys.version_info >= (3, 12):
        lines.append("super  # read by the module: so the compiler makes no single instruction of super().x")
    return "".join(line + "\n" for line in lines)


# -- names that are no identifiers


def shown_names(code: CodeType) -> "dict[str, str]":
    """Return the stand-ins of names that source cannot spell (``.0`` and what hand-made bytecode may
    hold)."""
    shown: "dict[str, str]" = {}
    used: "set[str]" = set()
    todo = [code]
    found: "list[str]" = []
    while todo:
        one = todo.pop(0)
        names = [*one.co_varnames, *one.co_names, *one.co_cellvars, *one.co_freevars]
        used.update(names)
        if one is code or one.co_name.startswith("<generic") or not one.co_name.startswith("<"):
            found += names
        todo.extend(const for const in one.co_consts if isinstance(const, CodeType))
    for one_name in found:
        if one_name not in shown and not _spellable(one_name):
            shown[one_name] = _stand_in(one_name, used)
            used.add(shown[one_name])
    return shown


def _spellable(text: str) -> bool:
    return (
        all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))
        if text
        else False
    )


def _stand_in(text: str, used: "set[str]") -> str:
    base = "_n_" + (re.sub("[^0-9A-Za-z_]", "_", text)[:40] or "empty")
    candidate, number = base, 1
    while candidate in used:
        candidate, number = f"{base}{number}", number + 1
    return candidate


def _rename(root: ast.AST, shown: "dict[str, str]") -> None:
    if not shown:
        return
    for node in ast.walk(root):
        for field in ("id", "arg", "attr", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str) and value in shown:
                setattr(node, field, shown[value])
        names = getattr(node, "names", None)
        if isinstance(node, (ast.Global, ast.Nonlocal)) and names:
            node.names = [shown.get(one, one) for one in names]


# -- and back


def recompile(
    source: str, like: CodeType, *, filename: str = "<decompiled>", lines: "dict[int, int] | None" = None
) -> CodeType:
    """Compile ``source`` (as :func:`decompile` writes it) and return the function's code object, made like
    ``like``: same names and qualified names, order of cells, constants without literal form.

    ``lines`` (a :class:`Decompiled`'s ``line_map``) gives the code the line numbers of the original file, so
    that tracebacks show its lines if ``filename`` is that file.

    Raises:
        ValueError: if ``source`` does not define a function of that name.
        SyntaxError: if it is no Python.
    """
    tree: Any = source if lines is None else _with_lines(ast.parse(source, filename), lines, like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the author of the original has been warned
        module = compile(tree, filename, "exec", like.co_flags & _FUTURE, True)
    found = find(module, like)
    if found is None:
        raise ValueError(f"`source` defines no function {title(like)!r}, which the code object asks for")
    return adopt(
        found, like, literals.Placeholders(like), {new: old for old, new in shown_names(like).items()}
    )


def _with_lines(tree: ast.Module, lines: "dict[int, int]", like: CodeType) -> ast.Module:
    """Give each statement, and its parts, its line in the original file; the nearest above, if unknown."""
    todo: "list[tuple[ast.AST, int]]" = [(tree, like.co_firstlineno)]
    while todo:
        node, line = todo.pop()
        if isinstance(node, ast.stmt):
            line = lines.get(node.lineno, line)
        if hasattr(node, "lineno"):
            vars(node).update(lineno=line, end_lineno=line)
        todo.extend((child, line) for child in ast.iter_child_nodes(node))
    return tree


def find(module: CodeType, like: CodeType) -> Any:
    """Return the code of the function in a compiled module."""
    wanted = title(like)
    for const in module.co_consts:
        if isinstance(const, CodeType):
            if const.co_name == FACTORY and like.co_freevars:
                return find(const, like)
            if const.co_name == wanted:
                return const
    return None
