"""Bytecode that no compiler wrote: an answer or a ValueError, in bounded time, and never executed."""

import random
import textwrap
import types

import pytest

from torchard.compiler.decompile import decompile_code

CODES = [value.__code__ for value in vars(textwrap).values() if isinstance(value, types.FunctionType)]
CODES += [
    value.__code__ for value in vars(textwrap.TextWrapper).values() if isinstance(value, types.FunctionType)
]


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytecode_is_answered_or_refused(seed):
    chance = random.Random(seed)
    code = chance.choice(CODES)
    raw = bytearray(code.co_code)
    for _ in range(chance.randint(1, 4)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    try:
        found = decompile_code(code.replace(co_code=bytes(raw)))
    except ValueError:
        return
    assert found.equivalence in ("identical", "equivalent", "unverified")


def test_damaged_exception_tables_are_answered_or_refused():
    code = next(one for one in CODES if one.co_name == "_wrap_chunks")
    try:
        decompile_code(code.replace(co_exceptiontable=b"\x80\x04\x7f\x01"))
    except ValueError:
        pass


def test_giant_constants_cost_nothing():
    code = (lambda: 0).__code__
    giant = code.replace(co_consts=(None, "x" * 10_000_000))
    assert decompile_code(giant).equivalence != "unverified"


def test_names_with_newlines_stay_names():
    code = (lambda x: x).__code__.replace(co_name="a\nb", co_varnames=("c\nimport os",))
    source = decompile_code(code).source
    assert "import os" not in source
    compile(source, "source", "exec")
