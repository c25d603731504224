"""What a function does is the same after its way through source, whichever way it was written."""

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
