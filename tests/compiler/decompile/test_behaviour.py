"""What a function does is the same after its way through source, whichever way it was written."""

import types

import pytest

from tests.compiler import torture
from torchard.compiler.decompile import decompile_code, recompile

WAYS = ("auto", "dispatch")


@pytest.mark.parametrize("strategy", WAYS)
@pytest.mark.parametrize("function", torture.FUNCTIONS, ids=lambda function: function.__name__)
def test_recompiled_functions_behave_like_the_original(function, strategy):
    found = decompile_code(function, strategy=strategy)
    twin = torture.twin(function, found.source, recompile)
    for n in range(6):
        assert torture.behaviour(twin, n) == torture.behaviour(function, n)


def test_a_function_behaves_like_itself():
    for function in torture.FUNCTIONS:
        assert torture.behaviour(function, 2) == torture.behaviour(function, 2)


def test_the_comparison_sees_a_changed_log():
    changed = decompile_code(torture.two_contexts).source.replace("'i'", "'j'")
    twin = torture.twin(torture.two_contexts, changed, recompile)
    assert torture.behaviour(twin, 1) != torture.behaviour(torture.two_contexts, 1)


class Point:
    __match_args__ = ("a", "b")

    def __init__(self, a, b):
        self.a = a
        self.b = b


def patterns(x):
    match x:
        case 0 | 1:
            return "small"
        case [a, *rest] if a:
            return ("sequence", a, rest)
        case {"k": v, "l": 2}:
            return ("mapping", v)
        case Point(1, b=c):
            return ("first", c)
        case Point(a, 2) as p:
            return ("second", a, p.b)
        case str() | bytes():
            return "text"
        case _:
            return None


def test_pattern_matching_matches_the_same():
    found = decompile_code(patterns)
    twin = types.FunctionType(recompile(found.source, patterns.__code__), globals())
    subjects = (
        0,
        1,
        [1, 2, 3],
        [0],
        [],
        {"k": 1, "l": 2},
        {"k": 1},
        Point(1, 5),
        Point(3, 2),
        Point(3, 3),
        "s",
        b"b",
        2.5,
    )
    for subject in subjects:
        assert twin(subject) == patterns(subject)
