"""Sizes that remember: they must behave as the numbers they are."""

import copy
import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchard.prune.depgraph.algebra import axis
from torchard.prune.depgraph.sizes import (
    Notebook,
    SizeOf,
    TrackedFloat,
    TrackedInt,
    axes_of,
    evaluate,
    tracked_sqrt,
)

OPERATIONS = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod]


def tracked(value: int) -> TrackedInt:
    return TrackedInt(value, SizeOf(axis(value)), Notebook())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
@given(left=st.integers(2, 50), right=st.integers(2, 50))
def test_arithmetic_is_that_of_integers_and_is_remembered(operation, left, right):
    number = tracked(left)
    for result, plain in (
        (operation(number, right), operation(left, right)),
        (operation(number, tracked(right)), operation(left, right)),
    ):
        assert result == plain
        assert type(result) in (TrackedInt, TrackedFloat)
        assert evaluate(result.expression, {}, {}) == plain


@given(left=st.integers(2, 50), right=st.integers(2, 50))
def test_comparisons_are_those_of_integers(left, right):
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        assert compare(tracked(left), right) is compare(left, right)
    assert hash(tracked(left)) == hash(left)
    assert {left: "found"}[tracked(left)] == "found"


def test_an_expression_is_evaluated_with_other_widths():
    unit = axis(8)
    width = TrackedInt(8, SizeOf(unit), Notebook())
    scale = (width // 2) ** -0.5
    assert scale == 0.5
    assert evaluate(scale.expression, {unit: 2}, {}) == 1.0
    assert evaluate(tracked_sqrt(width).expression, {unit: 4}, {}) == 2.0
    assert axes_of(scale.expression) == {unit}
    assert tracked_sqrt(9.0) == math.sqrt(9.0)


def test_equality_that_holds_is_an_equation_and_others_are_comparisons():
    notebook = Notebook()
    width = TrackedInt(8, SizeOf(axis(8)), notebook)
    assert width == 8
    assert width != 9
    assert width > 4
    assert len(notebook.equations) == 1
    assert [comparison.name for comparison in notebook.comparisons] == ["ne", "gt"]


def test_sizes_that_become_plain_floats_are_noted():
    width = tracked(8)
    assert float(width) == 8.0
    assert width.notebook.lost == [width.expression]


def test_tensors_and_copies_see_plain_numbers():
    width = tracked(4)
    assert torch.equal(torch.ones(2) * width, torch.full((2,), 4.0))
    assert torch.zeros(width, 2).shape == (4, 2)
    assert type(copy.deepcopy(width)) is int
    assert list(range(width)) == [0, 1, 2, 3]
    assert type(copy.deepcopy(width / 2)) is float
