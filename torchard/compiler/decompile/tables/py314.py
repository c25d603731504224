"""Python 3.14: small integers, borrowed locals, special methods and common constants as instructions."""

from collections.abc import Sequence
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.tables import py311, py313
from torchard.compiler.decompile.tables.common import CONVERSIONS, Table, choice, counted, fast, nothing, op

_GONE = {
    "BEFORE_WITH",
    "BEFORE_ASYNC_WITH",
    "BINARY_SUBSCR",
    "BUILD_CONST_KEY_MAP",
    "LOAD_ASSERTION_ERROR",
    "RETURN_CONST",
}
_COMMON = ["AssertionError", "NotImplementedError", "tuple", "all", "any", "list", "set"]


def _binary(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Subscr"),) if arg == 26 else py311.binary_op(names, arg)


def _interpolation(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Interpolation", (CONVERSIONS[arg >> 2], bool(arg & 1))),)


TABLE: Table = {
    **{name: way for name, way in py313.TABLE.items() if name not in _GONE},
    "BINARY_OP": _binary,
    "LOAD_SMALL_INT": lambda names, arg: (Op("Const", arg),),
    "LOAD_FAST_BORROW": fast("Load"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": py313.TABLE["LOAD_FAST_LOAD_FAST"],
    "LOAD_COMMON_CONSTANT": choice("Common", _COMMON),
    "LOAD_SPECIAL": counted("Special"),
    "CALL_FUNCTION_EX": op("CallEx", True),  # keyword arguments or NULL always lie on the stack
    "NOT_TAKEN": nothing,
    "POP_ITER": op("Pop"),
    "END_ASYNC_FOR": op("EndAsyncFor"),
    "BUILD_TEMPLATE": op("BuildTemplate"),
    "BUILD_INTERPOLATION": _interpolation,
}
