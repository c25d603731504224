"""Constants as syntax: the expression whose compilation gives exactly this object back."""

import ast
import math
import re
from types import CodeType
from typing import Any

PLAIN = (str, bytes, bool, type(None), type(Ellipsis))
PLACEHOLDER = "<const "
_LITERAL = (str, bytes, bool, type(None), type(Ellipsis), int, float, complex)
_SENTINEL = re.compile(r"<const (\d+): ")


class Placeholders:
    """Objects without a literal form, and the sentinel strings that stand for them in source.

    Numbered in the order a walk through ``code`` meets them, so that source and code object agree.
    """

    def __init__(self, code: CodeType) -> None:
        self.objects: "list[Any]" = []
        self.used: "dict[str, Any]" = {}
        self._collect(code.co_consts)

    def _collect(self, values: Any) -> None:
        for value in values:
            if isinstance(value, CodeType):
                self.objects.append(value)
                self._collect(value.co_consts)
            elif type(value) is tuple:
                self._collect(value)
            elif type(value) not in _LITERAL and not any(known is value for known in self.objects):
                self.objects.append(value)

    def name(self, value: Any) -> str:
        """Return the sentinel of ``value``; the same object has one sentinel."""
        number = next((place for place, known in enumerate(self.objects) if known is value), None)
        if number is None:
            number = len(self.objects)
            self.objects.append(value)
        sentinel = f"{PLACEHOLDER}{number}: {_short(value)}>"
        self.used[sentinel] = value
        return sentinel

    def value(self, text: str) -> Any:
        """Return the object that a sentinel stands for, any other text as it is."""
        match = _SENTINEL.match(text)
        if match and int(match.group(1)) < len(self.objects):
            value = self.objects[int(match.group(1))]
            if f"{PLACEHOLDER}{match.group(1)}: {_short(value)}>" == text:
                return value
        return text


def literal(value: Any, placeholders: Placeholders) -> ast.expr:
    """Return an expression for a constant; objects without one become sentinel strings."""
    kind = type(value)
    if kind in PLAIN:
        return ast.Constant(value)
    if kind is int:
        return _number(value)
    if kind is float:
        return _float(value)
    if kind is complex:
        return _complex(value)
    if kind is tuple:
        return ast.Tuple([literal(item, placeholders) for item in value], ast.Load())
    if kind is slice:
        parts = [
            None if part is None else literal(part, placeholders)
            for part in (value.start, value.stop, value.step)
        ]
        return ast.Slice(*parts)
    return ast.Constant(placeholders.name(value))


def is_code(value: Any) -> bool:
    return isinstance(value, CodeType)


def _number(value: Any) -> ast.expr:
    if value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _float(value: float) -> ast.expr:
    if math.isnan(value):
        infinity = ast.Constant(math.inf)
        return ast.BinOp(infinity, ast.Sub(), infinity)
    if math.copysign(1.0, value) < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _complex(value: complex) -> ast.expr:
    real, imaginary = value.real, value.imag
    if real == 0 and math.copysign(1.0, real) > 0 and math.copysign(1.0, imaginary) > 0:
        return ast.Constant(value)
    if real == 0 and math.copysign(1.0, real) < 0:  # -(0 - 3j) would lose the sign of zero: -3j is -0-3j
        return ast.UnaryOp(ast.USub(), ast.Constant(complex(0.0, -imaginary)))
    sign: ast.operator = ast.Sub() if math.copysign(1.0, imaginary) < 0 else ast.Add()
    return ast.BinOp(_float(real), sign, ast.Constant(complex(0.0, abs(imaginary))))


_TELLING = (
    "dtype",
    "device",
    "layout",
    "memory_format",
    "type",
    "function",
    "builtin_function_or_method",
    "module",
)


def _short(value: Any) -> str:
    """What the object is. Only kinds whose ``repr`` is short and runs no user code are shown by it."""
    kind = type(value).__name__
    if kind not in _TELLING or type(value).__module__ not in ("torch", "builtins"):
        return kind
    text = value.__name__ if kind in _TELLING[4:] else repr(value)
    return "".join(sign if sign.isprintable() else " " for sign in text[:60])
