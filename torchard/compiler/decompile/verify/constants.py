"""Keys that are equal only for constants no program can tell apart."""

from types import CodeType
from typing import Any

_EXACT = (int, str, bytes, bool, type(None), type(Ellipsis))


def constant_key(value: Any, codes: "dict[int, Any]") -> Any:
    """Return a hashable key, type-exact at every depth: 1, True and 1.0 differ, so do 0.0 and -0.0; NaN
    equals NaN.

    ``codes`` gives the keys of nested code objects by ``id``.
    """
    kind = type(value)
    if kind in _EXACT:
        return (kind.__name__, value)
    if kind in (float, complex):
        return (kind.__name__, repr(value))
    if kind is tuple:
        return ("tuple", tuple([constant_key(item, codes) for item in value]))
    if kind is frozenset:
        return ("frozenset", frozenset(constant_key(item, codes) for item in value))
    if kind is slice:
        return ("slice", tuple([constant_key(item, codes) for item in (value.start, value.stop, value.step)]))
    if kind is CodeType:
        return codes.get(id(value), ("code", id(value)))
    return ("object", id(value))


def nested_codes(code: CodeType) -> "list[CodeType]":
    """Return the code objects among the constants, those inside tuples included."""
    found: list = []
    todo = list(code.co_consts)
    while todo:
        value = todo.pop(0)
        if isinstance(value, CodeType):
            found.append(value)
        elif isinstance(value, tuple):
            todo = list(value) + todo
    return found
