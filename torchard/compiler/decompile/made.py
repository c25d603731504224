"""What is made in several steps before it has a name: imports, functions, classes, type aliases."""

import ast
from typing import Any

_SYNTAX: Any = ast  # `type` statements are newer than the oldest Python this module is read by


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

    def __init__(self, code: Any, parts: "dict[str, ast.expr]") -> None:
        self.code = code
        self.parts = parts
        self.decorators: "tuple[ast.expr, ...]" = ()
        self.generic: Any = None  # its type parameters


class Class:
    """A class made but not yet bound."""

    def __init__(
        self, function: Function, title: str, bases: "list[ast.expr]", keywords: "list[ast.keyword]"
    ) -> None:
        self.function = function
        self.title = title
        self.bases = bases
        self.keywords = keywords
        self.decorators: "tuple[ast.expr, ...]" = ()
        self.generic: Any = None  # its type parameters


class Generic:
    """The type parameters of a function, class or alias, and the scope they live in."""

    def __init__(self, scope: Any, params: "list[Any]") -> None:
        self.scope = scope
        self.params = params


class Alias:
    """A ``type`` statement made but not yet bound."""

    def __init__(self, title: str, value: ast.expr, generic: "Generic | None" = None) -> None:
        self.title = title
        self.value = value
        self.generic = generic

    def statement(self, own: str) -> ast.stmt:
        node: ast.stmt = _SYNTAX.TypeAlias(ast.Name(own, ast.Store()), parameters(self), self.value)
        return node


def parameters(made: Any) -> "list[Any]":
    """Return the type parameters of something made, as syntax."""
    return made.generic.params if made.generic is not None else []
