"""Polynomials in sizes, against plain arithmetic."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from torchard.prune.depgraph.polynomial import Polynomial

A, B, C = (Polynomial.unknown(name) for name in "abc")
VALUES = {"a": 3, "b": 5, "c": 7}


def number(polynomial: Polynomial) -> Fraction:
    return polynomial.value(VALUES.__getitem__)


@given(x=st.integers(-9, 9), y=st.integers(-9, 9))
def test_sums_and_products_evaluate_as_numbers_do(x, y):
    left, right = A * Polynomial.constant(x) + B * C, C - A * Polynomial.constant(y)
    assert number(left + right) == number(left) + number(right)
    assert number(left - right) == number(left) - number(right)
    assert number(left * right) == number(left) * number(right)
    assert number(left.substitute({"a": right})) == left.value({**VALUES, "a": number(right)}.__getitem__)


def test_equal_polynomials_are_one_value():
    assert (A + B) * C == C * A + B * C
    assert (A - A).terms == ()


def test_solving_for_what_divides_out():
    assert (A * B - C * A * B).divide(("b",), Fraction(1)) == A - C * A
    assert (A * Polynomial.constant(2) - B).solve_for("a") == B * Polynomial.constant(Fraction(1, 2))
    assert (A * B - C * B).solve_for("a") == C
    assert (A * B - C).solve_for("a") is None
    assert (A * A - C).solve_for("a") is None


def test_degrees_count_the_unknowns_asked_for():
    assert (A * B + C).degrees(["a", "b"]) == {0, 2}
    assert (A + B).degrees(["a", "b"]) == {1}
