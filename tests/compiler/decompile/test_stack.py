"""The symbolic stack keeps the order of evaluation, also where no compiler would have needed it to."""

import ast

from torchard.compiler.decompile import expressions
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.scope import Scope, Settings
from torchard.compiler.decompile.stack import Stack


def written(*ops):
    code = (lambda x, y: None).__code__
    stack = Stack(Scope(code, settings=Settings(code)), [])
    expressions.run(stack, list(ops))
    return [ast.unparse(ast.fix_missing_locations(statement)) for statement in stack.out]


X, Y, F = ("fast", "x"), ("fast", "y"), ("global", "f")
CALL_F = (Op("Load", F), Op("Call", (0, ())))


def test_a_local_on_the_stack_keeps_its_value_when_the_name_changes():
    assert written(Op("Load", X), Op("Delete", X), Op("Return")) == ["_t0 = x", "del x", "return _t0"]


def test_a_call_under_a_statement_is_made_before_it():
    lines = written(*CALL_F, Op("Load", X), Op("DeleteAttr", "a"), Op("Return"))
    assert lines == ["_t0 = f()", "del x.a", "return _t0"]


def test_swapped_calls_are_made_in_the_order_they_were():
    lines = written(
        *CALL_F,
        Op("Load", ("global", "g")),
        Op("Call", (0, ())),
        Op("Swap", 2),
        Op("Binary", "-"),
        Op("Return"),
    )
    assert lines == ["_t0 = f()", "_t1 = g()", "return _t1 - _t0"]


def test_a_copied_display_is_built_once():
    lines = written(Op("Build", ("list", 0)), Op("Copy", 1), Op("Build", ("tuple", 2)), Op("Return"))
    assert lines == ["_t0 = []", "return (_t0, _t0)"]


def test_an_unpacking_happens_before_what_is_loaded_after_it():
    lines = written(*CALL_F, Op("Unpack", 1), *CALL_F, Op("Build", ("tuple", 2)), Op("Return"))
    assert lines[0].startswith("_t0")
    assert "= f()" in lines[0]
    assert lines[-1].startswith("return (_t0, f()")
