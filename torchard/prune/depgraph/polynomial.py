"""Just enough polynomial arithmetic to compare sizes: exact sums of products of unknowns."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Unknown: TypeAlias = Hashable
Monomial: TypeAlias = tuple[Unknown, ...]


_ONE: tuple[tuple[Monomial, Fraction], ...] = (((), Fraction(1)),)


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Coefficients by monomial; a monomial lists its unknowns with repetition, in one fixed order."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(terms: Mapping[Monomial, Fraction]) -> "Polynomial":
        kept = [(monomial, value) for monomial, value in terms.items() if value]
        if len(kept) < 2:
            return Polynomial(tuple(kept))
        return Polynomial(tuple(sorted(kept, key=lambda term: (len(term[0]), str(term[0])))))

    @staticmethod
    def constant(value: int | Fraction) -> "Polynomial":
        return Polynomial.of({(): Fraction(value)})

    @staticmethod
    def unknown(name: Unknown) -> "Polynomial":
        return Polynomial.of({(name,): Fraction(1)})

    def __add__(self, other: "Polynomial") -> "Polynomial":
        total = dict(self.terms)
        for monomial, value in other.terms:
            total[monomial] = total.get(monomial, Fraction(0)) + value
        return Polynomial.of(total)

    def __sub__(self, other: "Polynomial") -> "Polynomial":
        return self + Polynomial(tuple((monomial, -value) for monomial, value in other.terms))

    def __mul__(self, other: "Polynomial") -> "Polynomial":
        if other.terms == _ONE:
            return self
        if self.terms == _ONE:
            return other
        total: dict[Monomial, Fraction] = {}
        for one, first in self.terms:
            for two, second in other.terms:
                monomial = tuple(sorted(one + two, key=str))
                total[monomial] = total.get(monomial, Fraction(0)) + first * second
        return Polynomial.of(total)

    def unknowns(self) -> set[Unknown]:
        """Everything that is not a number."""
        return {unknown for monomial, _ in self.terms for unknown in monomial}

    def degrees(self, among: Iterable[Unknown]) -> set[int]:
        """Total degrees of the monomials in the unknowns ``among``."""
        wanted = set(among)
        return {sum(unknown in wanted for unknown in monomial) for monomial, _ in self.terms}

    def substitute(self, values: Mapping[Unknown, "Polynomial"]) -> "Polynomial":
        """Put polynomials in the place of unknowns."""
        if values.keys().isdisjoint(self.unknowns()):
            return self
        total = Polynomial(())
        for monomial, value in self.terms:
            term = Polynomial.constant(value)
            for unknown in monomial:
                term = term * values.get(unknown, Polynomial.unknown(unknown))
            total = total + term
        return total

    def solve_for(self, unknown: Unknown) -> "Polynomial | None":
        """The value of ``unknown`` that makes this zero, where it occurs once, linearly, and divides out."""
        holding = [term for term in self.terms if unknown in term[0]]
        if len(holding) != 1 or holding[0][0].count(unknown) != 1:
            return None
        (monomial, value) = holding[0]
        others = list(monomial)
        others.remove(unknown)
        rest = Polynomial(tuple(term for term in self.terms if term is not holding[0]))
        return rest.divide(tuple(others), -value)

    def divide(self, monomial: Monomial, value: Fraction) -> "Polynomial | None":
        """Exact quotient by one term, or nothing."""
        total: dict[Monomial, Fraction] = {}
        for mine, coefficient in self.terms:
            left = list(mine)
            for unknown in monomial:
                if unknown not in left:
                    return None
                left.remove(unknown)
            total[tuple(left)] = coefficient / value
        return Polynomial.of(total)

    def value(self, of: Callable[[Unknown], int]) -> Fraction:
        """Evaluate."""
        total = Fraction(0)
        for monomial, coefficient in self.terms:
            for unknown in monomial:
                coefficient = coefficient * of(unknown)
            total += coefficient
        return total
