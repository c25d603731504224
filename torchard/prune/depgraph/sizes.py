"""Integers that remember where they come from, so that what code assumes about sizes becomes equations.

While a model is traced, every element of ``Tensor.shape`` knows its dimension and every integer attribute of
a module knows its name. Arithmetic on them builds expressions; where a size is used (``view``, ``split``,
``zeros`` …) the expression must equal the size of the dimension it made.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from torchard.prune.depgraph.algebra import Axis, Node, leaves, parts_of, resolve, width

AttributeKey: TypeAlias = tuple[str, str, int | None]  # module, attribute, place in a tuple or list


@dataclass(frozen=True, slots=True)
class SizeOf:
    """The size of a dimension."""

    node: Node


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer attribute of a module, with its value before pruning."""

    key: AttributeKey
    value: int


@dataclass(frozen=True, slots=True)
class Apply:
    """An arithmetic operation on expressions."""

    name: str
    left: "Expression"
    right: "Expression"


Expression: TypeAlias = SizeOf | Attribute | Apply | int | float


@dataclass(frozen=True, slots=True)
class Equation:
    """Two expressions the code takes to be equal, and where."""

    left: Expression
    right: Expression
    where: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison the code made, which must come out alike after pruning."""

    name: str
    left: Expression
    right: Expression
    outcome: bool


@dataclass(frozen=True, slots=True)
class Scaling:
    """A number made from sizes that entered a tensor operation."""

    expression: Expression
    value: int | float
    first: int  # of the operations recorded meanwhile
    last: int


@dataclass
class Notebook:
    """Everything a trace learned about sizes."""

    equations: list[Equation] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    scalings: list[Scaling] = field(default_factory=list)
    lost: list[Expression] = field(default_factory=list)  # sizes that became plain numbers

    def equate(self, left: Any, right: Any, where: str) -> None:
        """Note that two sizes are equal, unless neither can ever change."""
        one, other = expression_of(left), expression_of(right)
        if one is not other and (_can_change(one) or _can_change(other)):
            self.equations.append(Equation(one, other, where))


class _Arithmetic:
    """Operators that build expressions, for both kinds of tracked number."""

    expression: Expression
    notebook: Notebook

    def __add__(self, other: Any) -> Any:
        return _combine("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _combine("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _combine("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _combine("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return _combine("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _combine("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _combine("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _combine("floordiv", other, self)

    def __mod__(self, other: Any) -> Any:
        return _combine("mod", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _combine("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _combine("truediv", other, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return _combine("pow", self, other)

    def __neg__(self) -> Any:
        return _combine("mul", self, -1)


class TrackedInt(_Arithmetic, int):
    """An integer that knows how it came about."""

    def __new__(cls, value: int, expression: Expression, notebook: Notebook) -> "TrackedInt":
        made = super().__new__(cls, value)
        made.expression, made.notebook = expression, notebook
        return made

    def __eq__(self, other: object) -> bool:
        return _compare("eq", self, other)

    def __ne__(self, other: object) -> bool:
        return _compare("ne", self, other)

    def __lt__(self, other: Any) -> bool:
        return _compare("lt", self, other)

    def __le__(self, other: Any) -> bool:
        return _compare("le", self, other)

    def __gt__(self, other: Any) -> bool:
        return _compare("gt", self, other)

    def __ge__(self, other: Any) -> bool:
        return _compare("ge", self, other)

    __hash__ = int.__hash__

    def __float__(self) -> float:
        self.notebook.lost.append(self.expression)
        return float(int.__int__(self))

    def __int__(self) -> int:
        return int.__int__(self)

    def __deepcopy__(self, memo: Any) -> int:
        return int.__int__(self)

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)


class TrackedFloat(_Arithmetic, float):
    """A float made from tracked integers."""

    def __new__(cls, value: float, expression: Expression, notebook: Notebook) -> "TrackedFloat":
        made = super().__new__(cls, value)
        made.expression, made.notebook = expression, notebook
        return made

    def __deepcopy__(self, memo: Any) -> float:
        return float.__float__(self)

    def __reduce__(self) -> Any:
        return float, (float.__float__(self),)


Tracked = (TrackedInt, TrackedFloat)


def tracked_sqrt(value: Any) -> Any:
    """``math.sqrt`` that keeps track."""
    return _combine("pow", value, 0.5) if isinstance(value, Tracked) else _sqrt(value)


_sqrt = math.sqrt


def expression_of(value: Any) -> Expression:
    """How a number came about; a plain number is itself, a dimension its size."""
    if isinstance(value, Tracked):
        return value.expression
    if isinstance(value, (int, float)):
        return value
    return SizeOf(value)


def axes_of(expression: Expression) -> set[Axis]:
    """Free axes an expression depends on."""
    if isinstance(expression, SizeOf):
        return set(leaves(expression.node))
    if isinstance(expression, Apply):
        return axes_of(expression.left) | axes_of(expression.right)
    return set()


def evaluate(
    expression: Expression, widths: Mapping[Axis, int], attributes: Mapping[AttributeKey, int]
) -> int | float:
    """Value of an expression after pruning."""
    if isinstance(expression, SizeOf):
        return width(expression.node, widths)
    if isinstance(expression, Attribute):
        return attributes.get(expression.key, expression.value)
    if isinstance(expression, Apply):
        left = evaluate(expression.left, widths, attributes)
        right = evaluate(expression.right, widths, attributes)
        return _OPERATIONS[expression.name](left, right)
    return expression


def _combine(name: str, left: Any, right: Any) -> Any:
    if isinstance(left, Tensor) or isinstance(right, Tensor) or not _numbers(left, right):
        return NotImplemented
    plain = _OPERATIONS[name](_plain(left), _plain(right))
    notebook = (left if isinstance(left, Tracked) else right).notebook
    expression = Apply(name, expression_of(left), expression_of(right))
    if isinstance(plain, int):
        return TrackedInt(plain, expression, notebook)
    return TrackedFloat(plain, expression, notebook) if isinstance(plain, float) else plain


def _compare(name: str, left: TrackedInt, right: Any) -> Any:
    if not _numbers(left, right):
        return NotImplemented
    outcome = COMPARISONS[name](_plain(left), _plain(right))
    one, other = expression_of(left), expression_of(right)
    if isinstance(right, int) and (name, outcome) in (("eq", True), ("ne", False)):
        left.notebook.equate(left, right, "a comparison")
    elif _can_change(one) or _can_change(other):
        left.notebook.comparisons.append(Comparison(name, one, other, outcome))
    return outcome


def _numbers(left: Any, right: Any) -> bool:
    return isinstance(left, (int, float)) and isinstance(right, (int, float))


def _plain(value: Any) -> Any:
    if isinstance(value, TrackedInt):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, TrackedFloat) else value


def _can_change(expression: Expression) -> bool:
    """Whether a free axis or an attribute takes part."""
    if isinstance(expression, Apply):
        return _can_change(expression.left) or _can_change(expression.right)
    if isinstance(expression, SizeOf):
        return _has_axis(resolve(expression.node))
    return isinstance(expression, Attribute)


def _has_axis(node: Node) -> bool:
    return isinstance(node, Axis) or any(_has_axis(part) for part in parts_of(node))


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "truediv": operator.truediv,
    "pow": operator.pow,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
