"""What lies on the symbolic stack: expressions with what they read and when they are evaluated."""

import ast
import itertools
from typing import Any

_NUMBERS = itertools.count()
NONE: "frozenset[str]" = frozenset()


class Slot:
    """One value that is not computed yet.

    ``kind`` says how free its evaluation is: "const", "pure" (reads only the fast locals in ``reads``),
    "ordered" (may run user code or read what user code changes), "owned" (a display just built, still
    growing), something made but not yet bound ("function", "class", "alias", "param" for a type parameter,
    "interpolation"), or one of the kinds that are no value: "target", "dup", "mark", "iter", "mid", "cell",
    "cells", "module", "imported", the "body" of a class, and what type parameters leave in between ("params",
    "base", "parts"). Slots are never changed: a new one takes the place.
    """

    __slots__ = ("data", "expr", "kind", "reads", "seq", "uid")

    def __init__(self, kind: str, expr: Any = None, reads: "frozenset[str]" = NONE, data: Any = None,
                 uid: Any = None, seq: Any = None) -> None:  # fmt: skip
        number = next(_NUMBERS)
        self.kind = kind
        self.expr = expr
        self.reads = reads
        self.data = data
        self.uid = number if uid is None else uid
        self.seq = number if seq is None else seq

    def __repr__(self) -> str:
        text = ast.unparse(self.expr) if isinstance(self.expr, ast.AST) else ""
        return f"<{self.kind} {text} {self.data if self.data is not None else ''}>"


UNEVALUATED = frozenset({"ordered", "owned", "aug", "pending", "fmt", "function", "class", "chain", "alias",
                         "interpolation", "interpolations"})  # fmt: skip
MARKS = frozenset({"mark", "iter", "target", "mid", "cell", "cells", "module", "imported", "params", "body",
                   "base", "parts"})  # fmt: skip


class Unstructured(Exception):
    """This code has no structured form that we find; the reason is for the report."""


class Impure(Exception):
    """A statement is needed where only an expression may stand."""


class Target:
    """A place that a value arriving later is stored to: of a ``for``, a ``with``, an unpacking, a clause."""

    def __init__(self) -> None:
        self.node: Any = None
        self.parts: "list[Target]" = []
        self.star = -1
        self.done: Any = None  # called when the whole is filled
        self.parent: Any = None

    def split(self, count: int, star: int) -> None:
        self.parts = [Target() for _ in range(count)]
        self.star = star
        for part in self.parts:
            part.parent = self
        if not count:
            self.fill(ast.Tuple([], ast.Store()))

    def fill(self, node: Any) -> None:
        """Store to ``node``; tell the whole when the last part is filled."""
        self.node = node
        whole = self.parent
        if whole is None:
            if self.done is not None:
                self.done(node)
            return
        if all(part.node is not None for part in whole.parts):
            elements = [ast.Starred(part.node, ast.Store()) if place == whole.star else part.node
                        for place, part in enumerate(whole.parts)]  # fmt: skip
            whole.fill(ast.Tuple(elements, ast.Store()))
