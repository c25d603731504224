"""What is asked of a value in a ``match`` statement, and the pattern that asks it."""

import ast
from typing import Any

from torchard.compiler.decompile.slots import Unstructured


class Part:
    """A value, and what is asked of it; ``mirrors`` are the same value in each way of ``a | b``."""

    def __init__(self, mirrors: "tuple[Part, ...]" = ()) -> None:
        self.mirrors = mirrors
        self.names: "list[str]" = []
        self.reset()

    def reset(self) -> None:
        self.kind = ""
        self.data: Any = None
        self.children: "list[Part]" = []
        self.star = -1
        self.least: "int | None" = None  # a sequence of this length, or, if not ``exact``, no shorter one
        self.exact = False
        self.places: "dict[int, Part]" = {}
        self.rest: "Part | None" = None

    def become(self, kind: str, data: Any = None) -> None:
        if self.kind not in ("", kind):
            raise Unstructured("a value matched in two ways")
        self.kind, self.data = kind, data

    def name(self, identifier: str) -> None:
        for one in self.mirrors or (self,):
            one.names.append(identifier)


def pattern(part: Part) -> Any:
    """Return the syntax of everything that was asked of ``part``."""
    node = _FORMS[part.kind](part)
    for identifier in part.names:
        node = ast.MatchAs(None if _is_wildcard(node) else node, identifier)
    return node


def _is_wildcard(node: Any) -> bool:
    return isinstance(node, ast.MatchAs) and node.name is None


def _sequence(part: Part) -> Any:
    if part.children:
        nodes = [pattern(child) for child in part.children]
        if part.star >= 0:
            names = part.children[part.star].names
            nodes[part.star] = ast.MatchStar(names[0] if names else None)
        return ast.MatchSequence(nodes)
    wildcard: Any = ast.MatchAs(None, None)
    nodes = [wildcard] * (part.least or 0)
    if part.exact:
        return ast.MatchSequence(nodes)
    star = 1 + max([place for place in part.places if place >= 0], default=-1)
    nodes.insert(star, ast.MatchStar(None))
    for place, child in part.places.items():
        nodes[place] = pattern(child)
    return ast.MatchSequence(nodes)


def _mapping(part: Part) -> Any:
    names = part.rest.names if part.rest is not None else []
    return ast.MatchMapping(part.data or [], [pattern(child) for child in part.children],
                            names[0] if names else None)  # fmt: skip


def _instance(part: Part) -> Any:
    kind, count, names = part.data
    nodes = [pattern(child) for child in part.children]
    return ast.MatchClass(kind, nodes[:count], list(names), nodes[count:])


def _single(part: Part) -> Any:
    value: Any = part.data.value if isinstance(part.data, ast.Constant) else part.data
    if value is not None and not isinstance(value, bool):
        raise Unstructured("a pattern of unknown form")
    return ast.MatchSingleton(value)


_FORMS: "dict[str, Any]" = {
    "": lambda part: ast.MatchAs(None, None),
    "value": lambda part: ast.MatchValue(part.data),
    "single": _single,
    "sequence": _sequence,
    "mapping": _mapping,
    "class": _instance,
    "or": lambda part: ast.MatchOr([pattern(one) for one in part.data]),
}
