"""Python 3.12: inlined comprehensions, intrinsics, slices and super() as instructions."""

from collections.abc import Sequence
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.tables import py311
from torchard.compiler.decompile.tables.common import COMPARE, Table, deref, fast, jump, nothing, op, variable

_GONE = {
    "PRECALL", "JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP", "LOAD_CLASSDEREF", "LOAD_METHOD",
    "LIST_TO_TUPLE",
    "UNARY_POSITIVE", "IMPORT_STAR", "PRINT_EXPR", "ASYNC_GEN_WRAP", "PREP_RERAISE_STAR",
}  # fmt: skip
_INTRINSICS_1 = {
    1: ("PrintExpr", None), 2: ("ImportStar", None), 3: ("StopIterationError", None), 4: None,
    5: ("Unary", "+"),
    6: ("ListToTuple", None), 7: ("Intrinsic", ("TypeVar", 1)), 8: ("Intrinsic", ("ParamSpec", 1)),
    9: ("Intrinsic", ("TypeVarTuple", 1)), 10: ("Intrinsic", ("SubscriptGeneric", 1)),
    11: ("Intrinsic", ("TypeAlias", 1)),
}  # fmt: skip
_INTRINSICS_2 = {
    1: ("PrepReraiseStar", None), 2: ("Intrinsic", ("TypeVarWithBound", 2)),
    3: ("Intrinsic", ("TypeVarWithConstraints", 2)), 4: ("Intrinsic", ("SetTypeParams", 2)),
    5: ("Intrinsic", ("SetTypeVarDefault", 2)),
}  # fmt: skip


def intrinsic_1(names: Any, arg: int) -> Sequence[Op]:
    known = _INTRINSICS_1[arg]
    if known is None:  # wraps the value an asynchronous generator yields: follows from the code's flags
        return ()
    if known[0] == "PrintExpr":  # leaves None behind, popped by the next instruction
        return (Op("PrintExpr"), Op("Const", None))
    if known[0] == "ImportStar":
        return (Op("ImportStar"), Op("Const", None))
    return (Op(*known),)


def intrinsic_2(names: Any, arg: int) -> Sequence[Op]:
    return (Op(*_INTRINSICS_2[arg]),)


def load_attr(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Method" if arg & 1 else "Attr", names.name(arg >> 1)),)


def load_super_attr(names: Any, arg: int) -> Sequence[Op]:
    return (Op("SuperMethod" if arg & 1 else "SuperAttr", (names.name(arg >> 2), bool(arg & 2))),)


_TESTS = {"TRUE": "true", "FALSE": "false", "NONE": "none", "NOT_NONE": "not none"}

TABLE: Table = {
    **{name: way for name, way in py311.TABLE.items() if name not in _GONE and "WARD_IF" not in name},
    **{f"POP_JUMP_IF_{test}": jump("Branch", word) for test, word in _TESTS.items()},
    "RESERVED": nothing,
    "INTERPRETER_EXIT": nothing,
    "COMPARE_OP": lambda names, arg: (Op("Compare", COMPARE[arg >> 4]),),
    "LOAD_ATTR": load_attr,
    "LOAD_SUPER_ATTR": load_super_attr,
    "LOAD_FAST_CHECK": fast("Load"),
    "LOAD_FAST_AND_CLEAR": fast("LoadClear"),
    "LOAD_LOCALS": op("LoadLocals"),
    "LOAD_FROM_DICT_OR_DEREF": deref("LoadFromDict", "deref"),
    "LOAD_FROM_DICT_OR_GLOBALS": variable("LoadFromDict", "global"),
    "BINARY_SLICE": op("BinSlice"),
    "STORE_SLICE": op("StoreSlice"),
    "RETURN_CONST": lambda names, arg: (Op("Const", names.const(arg)), Op("Return")),
    "CALL_INTRINSIC_1": intrinsic_1,
    "CALL_INTRINSIC_2": intrinsic_2,
    "END_FOR": op("EndFor", 2),
    "END_SEND": op("EndSend"),
    "CLEANUP_THROW": op("CleanupThrow"),
}
