"""``match`` statements come back as ``match`` statements that match the same."""

import types

import pytest

from torchard.compiler.decompile import decompile_code, recompile


class Point:
    __match_args__ = ("a", "b")

    def __init__(self, a, b):
        self.a = a
        self.b = b


def every_kind(x):
    match x:
        case [a, *rest] if a:
            return ("sequence", a, rest)
        case {"k": v, "l": 2}:
            return ("mapping", v)
        case Point(1, b=c):
            return ("first", c)
        case Point(a, 2) as p:
            return ("second", a, p.b)
        case 0 | 1:
            return "small"
        case str() | bytes():
            return "text"
        case _:
            return None


def in_a_loop(x):
    seen = []
    for y in (x, [x], {"a": {"b": x}, "c": 1}, None):
        match y:
            case [0, (1 | 2) as q, *_] | [q, _]:
                seen.append(q)
            case {"a": {"b": z}, **more}:
                seen.append((z, sorted(more)))
                continue
            case None | True:
                break
            case Point(a=[*_, last]):
                seen.append(last)
            case -1 | 2.5:
                return seen
            case other:
                seen.append(type(other))
        seen.append("next")
    return seen


def no_default(x):
    t = None
    match x, [x]:
        case (Point(a=1, b=c), _) if c > 1 and t is None:
            t = c
        case [[a, b], [[c, d]]]:
            t = a, b, c, d
        case [[], *_]:
            t = "empty"
    try:
        match x:
            case Point() as z if z.a:
                t = t, z.b
            case [_, _, _]:
                raise ValueError(t)
    finally:
        t = [t]
    return t


FUNCTIONS = [every_kind, in_a_loop, no_default]
SUBJECTS = [
    0, 1, 2, -1, True, None, [], [0], [0, 2], [1, 2, 3], [0, 1, 5, 6], (7, 8), {"k": 1, "l": 2}, {"k": 1}, {},
    Point(1, 5), Point(3, 2), Point(0, 3), Point([1, 4], 0), "s", b"b", 2.5, {"a": {"b": 3}, "z": 0},
]  # fmt: skip


def behaviour(function, subject):
    try:
        return function(subject)
    except ValueError as error:
        return repr(error)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_match_comes_back_as_one_and_is_proved(function):
    found = decompile_code(function)
    assert found.strategy == "structured", found.unsupported
    assert found.equivalence in ("identical", "equivalent")
    assert "match " in found.source
    again = recompile(found.source, function.__code__)
    assert decompile_code(again).source == decompile_code(function.__code__).source


@pytest.mark.parametrize("strategy", ["auto", "dispatch"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_whatever_is_matched_the_answer_is_the_same(function, strategy):
    found = decompile_code(function, strategy=strategy)
    twin = types.FunctionType(recompile(found.source, function.__code__), globals())
    for subject in SUBJECTS:
        assert behaviour(twin, subject) == behaviour(function, subject), found.source


def test_another_pattern_matches_otherwise():
    source = decompile_code(every_kind).source
    assert "Point(1, b=c)" in source
    changed = source.replace("Point(1, b=c)", "Point(2, b=c)")
    twin = types.FunctionType(recompile(changed, every_kind.__code__), globals())
    assert twin(Point(1, 5)) != every_kind(Point(1, 5))
