"""Equations between widths that the code of a model takes for granted, solved before any unit is chosen.

Axes that meet in a homogeneous equation keep one common share of their units, a multiple of one over the
greatest common divisor of their sizes. An equation with a number in it freezes the axes it mentions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from torchard.prune.depgraph.algebra import Axis, Fixed, Node, Prod, Sum, resolve
from torchard.prune.depgraph.polynomial import Polynomial, Unknown
from torchard.prune.depgraph.sizes import (
    COMPARISONS,
    Apply,
    Attribute,
    AttributeKey,
    Equation,
    Expression,
    Notebook,
    SizeOf,
    axes_of,
    evaluate,
)

Ratio = tuple[Polynomial, Polynomial]


@dataclass(frozen=True)
class Relation:
    """One equation as a polynomial that must be zero; ``None`` if it is of another form."""

    polynomial: Polynomial | None
    equation: Equation


@dataclass
class System:
    """What the code of one model assumes about its sizes."""

    relations: list[Relation]
    notebook: Notebook
    values: dict[Unknown, Polynomial]  # of attributes and of axes no parameter owns

    @classmethod
    def of(cls, notebook: Notebook, owned: set[Axis]) -> "System":
        """Bring the equations of a trace into normal form and express attributes by axes."""
        relations = _distinct(notebook.equations)
        return cls(relations, notebook, _definitions(relations, owned))

    def links(self, prunable: Iterable[Axis], frozen: Mapping[Axis, str] | None = None) -> "Links":
        """Return which of the axes must shrink together, and which cannot shrink at all."""
        links = Links(set(prunable) | set(frozen or {}), dict(frozen or {}))
        for expression in self.notebook.lost:
            equation = Equation(expression, evaluate(expression, {}, {}), "float()")
            links.freeze_for(equation, axes_of(expression), "its size becomes a plain number in the code")
        pending = [(relation, self._substituted(relation)) for relation in self.relations]
        changed = True
        while changed:
            changed = any_of(links.obey(polynomial, relation.equation) for relation, polynomial in pending)
        return links

    def _substituted(self, relation: Relation) -> Polynomial | None:
        return relation.polynomial.substitute(self.values) if relation.polynomial is not None else None

    def attributes(self, widths: Mapping[Axis, int]) -> dict[AttributeKey, int]:
        """Values of all attributes that widths determine and change."""
        found = {}
        for unknown, polynomial in self.values.items():
            if isinstance(unknown, Attribute):
                value = polynomial.value(lambda axis: _width(axis, widths))
                if value.denominator == 1:
                    found[unknown.key] = int(value)
        return found

    def phantoms(self, widths: Mapping[Axis, int]) -> dict[Axis, int]:
        """Widths of the axes no parameter owns."""
        found: dict[Axis, int] = {}
        for unknown, polynomial in self.values.items():
            if isinstance(unknown, Axis):
                value = polynomial.value(lambda axis: _width(axis, widths))
                found[unknown] = max(int(value), 1)
        return found

    def violated(self, widths: Mapping[Axis, int]) -> list[Equation]:
        """Equations and comparisons that would come out differently with these widths."""
        widths = {**self.phantoms(widths), **widths}
        attributes = self.attributes(widths)
        wrong = [
            relation.equation
            for relation in self.relations
            if evaluate(relation.equation.left, widths, attributes)
            != evaluate(relation.equation.right, widths, attributes)
        ]
        for comparison in self.notebook.comparisons:
            left = evaluate(comparison.left, widths, attributes)
            right = evaluate(comparison.right, widths, attributes)
            if _holds(comparison.name, left, right) != comparison.outcome:
                wrong.append(Equation(comparison.left, comparison.right, "a comparison that would turn out"))
        return wrong


@dataclass
class Links:
    """Axes in components that keep one share, and frozen ones with the reason."""

    prunable: set[Axis]
    frozen: dict[Axis, str] = field(default_factory=dict)
    parent: dict[Axis, Axis] = field(default_factory=dict)
    stale: dict[Axis, Equation] = field(default_factory=dict)  # frozen because the code has a plain number

    def obey(self, polynomial: Polynomial | None, equation: Equation) -> bool:
        """Draw the consequence of one equation; return whether anything is new."""
        free = self.prunable - self.frozen.keys()
        if polynomial is None:
            return False  # of a form that cannot be solved: checked once there are widths, see `violated`
        others = {
            unknown: Polynomial.constant(_original(unknown))
            for unknown in polynomial.unknowns()
            if unknown not in free
        }
        polynomial = polynomial.substitute(others)
        axes = [unknown for unknown in polynomial.unknowns() if isinstance(unknown, Axis)]
        if not axes:
            return False
        degrees = polynomial.degrees(axes)
        if len(degrees) > 1 or 0 in degrees:
            return self.freeze_for(equation, axes, f"{equation.where} relies on its size")
        return any_of(self._join(axes[0], other) for other in axes[1:])

    def freeze(self, axes: Iterable[Axis], reason: str) -> bool:
        """Take axes out of what can be pruned."""
        new = [axis for axis in axes if axis in self.prunable and axis not in self.frozen]
        self.frozen.update(dict.fromkeys(new, reason))
        return bool(new)

    def freeze_for(self, equation: Equation, axes: Iterable[Axis], reason: str) -> bool:
        """Freeze axes because of what the code says, and remember what it says."""
        new = [axis for axis in axes if axis in self.prunable and axis not in self.frozen]
        self.stale.update(dict.fromkeys(new, equation))
        return self.freeze(new, reason)

    def components(self) -> list[list[Axis]]:
        """Linked axes, each list sharing one kept fraction; single axes are left out."""
        found: dict[Axis, list[Axis]] = {}
        for axis in sorted(self.prunable - self.frozen.keys(), key=lambda axis: axis.serial):
            found.setdefault(self._root(axis), []).append(axis)
        return [axes for axes in found.values() if len(axes) > 1]

    def freeze_indivisible(self) -> bool:
        """Freeze linked axes whose sizes have no common divisor; return whether there were any."""
        reason = "linked to widths that have no common divisor"
        return any_of(self.freeze(axes, reason) for axes in self.components() if _common(axes) == 1)

    def _join(self, one: Axis, other: Axis) -> bool:
        first, second = self._root(one), self._root(other)
        if first is second:
            return False
        self.parent[first] = second
        return True

    def _root(self, axis: Axis) -> Axis:
        while axis in self.parent:
            axis = self.parent[axis]
        return axis


def settle(
    components: Sequence[Sequence[Axis]],
    widths: Mapping[Axis, int],
    least: Mapping[Axis, int],
    steps: Mapping[Axis, int],
) -> dict[Axis, int]:
    """Return widths in which linked axes keep one share: the nearest allowed to what was wanted.

    ``least`` are the smallest widths, ``steps`` what each width should be a multiple of.
    """
    settled = dict(widths)
    for axes in components:
        common = _common(axes)
        wanted = Fraction(sum(widths[axis] for axis in axes), sum(axis.size for axis in axes))
        lowest = max(math.ceil(Fraction(least[axis] * common, axis.size)) for axis in axes)
        share = min(max(round(wanted * common), lowest, 1), common)
        while share < common and any((share * axis.size // common) % steps[axis] for axis in axes):
            share += 1
        settled.update({axis: share * axis.size // common for axis in axes})
    return settled


def any_of(outcomes: Iterable[bool]) -> bool:
    """Whether any outcome is true, all of them having been brought about."""
    return sum(list(outcomes)) > 0


def _common(axes: Sequence[Axis]) -> int:
    return math.gcd(*(axis.size for axis in axes))


def _distinct(equations: Sequence[Equation]) -> list[Relation]:
    """One relation per different polynomial; what is always true is left out."""
    seen: dict[object, Relation] = {}
    for equation in equations:
        polynomial = _difference(equation)
        if polynomial is None:
            if axes_of(equation.left) or axes_of(equation.right):
                seen.setdefault((equation.left, equation.right), Relation(None, equation))
        elif polynomial.terms:
            seen.setdefault(polynomial, Relation(polynomial, equation))
    return list(seen.values())


def _definitions(relations: Sequence[Relation], owned: set[Axis]) -> dict[Unknown, Polynomial]:
    """Express every attribute, and every axis no parameter owns, by the axes parameters own."""
    values: dict[Unknown, Polynomial] = {}
    # Equations that name one unknown alone come first: they say what it is, the others what it is used for.
    pending = sorted(
        (relation.polynomial for relation in relations if relation.polynomial is not None),
        key=lambda polynomial: len(_open(polynomial, owned)),
    )
    progress = True
    while progress:
        progress, left = False, []
        for polynomial in pending:
            current = polynomial.substitute(values)
            unknowns = _open(current, owned)
            if len(unknowns) == 1 and (found := current.solve_for(*unknowns)) is not None:
                (unknown,) = unknowns
                values[unknown] = found  # in owned axes alone: it was the only unknown left
                progress = True
            elif unknowns:
                left.append(current)
        pending = left
    return values


def _open(polynomial: Polynomial, owned: set[Axis]) -> set[Unknown]:
    return {unknown for unknown in polynomial.unknowns() if unknown not in owned}


def _difference(equation: Equation) -> Polynomial | None:
    left, right = _ratio(equation.left), _ratio(equation.right)
    if left is None or right is None:
        return None
    return left[0] * right[1] - right[0] * left[1]


def _ratio(expression: Expression) -> Ratio | None:
    one = Polynomial.constant(1)
    if isinstance(expression, SizeOf):
        return size_polynomial(expression.node), one
    if isinstance(expression, Attribute):
        return Polynomial.unknown(expression), one
    if isinstance(expression, Apply):
        return _applied(expression)
    return (Polynomial.constant(expression), one) if isinstance(expression, int) else None


def _applied(expression: Apply) -> Ratio | None:
    left, right = _ratio(expression.left), _ratio(expression.right)
    if left is None or right is None:
        return None
    (a, b), (c, d) = left, right
    match expression.name:
        case "add":
            return a * d + c * b, b * d
        case "sub":
            return a * d - c * b, b * d
        case "mul":
            return a * c, b * d
        case "floordiv" | "truediv":
            numerator, denominator = (evaluate(side, {}, {}) for side in (expression.left, expression.right))
            return (a * d, b * c) if denominator and numerator % denominator == 0 else None
    return None


def size_polynomial(node: Node) -> Polynomial:
    """The size of a dimension in its free axes."""
    node = resolve(node)
    if isinstance(node, Fixed):
        return Polynomial.constant(node.size)
    if isinstance(node, Axis):
        return Polynomial.unknown(node)
    if isinstance(node, Prod):
        total = Polynomial.constant(1)
        for factor in node.factors:
            total = total * size_polynomial(factor)
        return total
    assert isinstance(node, Sum)
    total = Polynomial.constant(0)
    for term in node.terms:
        total = total + size_polynomial(term)
    return total


def _original(unknown: Unknown) -> int:
    assert isinstance(unknown, Axis | Attribute)
    return unknown.size if isinstance(unknown, Axis) else unknown.value


def _width(unknown: Unknown, widths: Mapping[Axis, int]) -> int:
    return widths.get(unknown, unknown.size) if isinstance(unknown, Axis) else _original(unknown)


def _holds(name: str, left: int | float, right: int | float) -> bool:
    return COMPARISONS[name](left, right)
