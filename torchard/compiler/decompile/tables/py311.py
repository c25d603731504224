"""Python 3.11: exception table, relative jumps, PRECALL and CALL."""

from collections.abc import Sequence
from typing import Any

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.tables.common import (
    BINARY,
    COMMON,
    COMPARE,
    Table,
    choice,
    counted,
    deref,
    format_value,
    jump,
    make_function,
    named,
    nothing,
    op,
)


def binary_op(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Binary", BINARY[arg]) if arg < len(BINARY) else Op("Inplace", BINARY[arg - len(BINARY)]),)


def load_global(names: Any, arg: int) -> Sequence[Op]:
    load = Op("Load", ("global", names.name(arg >> 1)))
    return (Op("Null"), load) if arg & 1 else (load,)


_TESTS = {"TRUE": "true", "FALSE": "false", "NONE": "none", "NOT_NONE": "not none"}

TABLE: Table = {
    **COMMON,
    **{
        f"POP_JUMP_{way}_IF_{test}": jump("Branch", word)
        for way in ("FORWARD", "BACKWARD")
        for test, word in _TESTS.items()
    },
    "CACHE": nothing,
    "RESUME": nothing,
    "MAKE_CELL": nothing,
    "COPY_FREE_VARS": nothing,
    "RETURN_GENERATOR": op("Generator"),  # with the POP_TOP behind it, as good as nothing
    "ASYNC_GEN_WRAP": nothing,  # follows from the code's flags
    "PUSH_NULL": op("Null"),
    "BINARY_OP": binary_op,
    "BINARY_SUBSCR": op("Subscr"),
    "UNARY_POSITIVE": op("Unary", "+"),
    "COMPARE_OP": choice("Compare", COMPARE),
    "LOAD_ATTR": named("Attr"),
    "LOAD_METHOD": named("Method"),
    "LOAD_GLOBAL": load_global,
    "LOAD_CLOSURE": deref("Load", "closure"),
    "LOAD_CLASSDEREF": deref("Load", "classderef"),
    "PRECALL": nothing,
    "KW_NAMES": lambda names, arg: (Op("KwNames", names.const(arg)),),
    "CALL": lambda names, arg: (Op("Call", (arg, ())),),
    "CALL_FUNCTION_EX": lambda names, arg: (Op("CallEx", bool(arg & 1)),),
    "BUILD_CONST_KEY_MAP": counted("ConstKeyMap"),
    "MAKE_FUNCTION": make_function,
    "FORMAT_VALUE": format_value,
    "LIST_TO_TUPLE": op("ListToTuple"),
    "IMPORT_STAR": op("ImportStar"),
    "PRINT_EXPR": op("PrintExpr"),
    "LOAD_ASSERTION_ERROR": op("Common", "AssertionError"),
    "GET_AWAITABLE": op("GetAwaitable"),
    "SEND": jump("Send"),
    "COPY": counted("Copy"),
    "SWAP": counted("Swap"),
    "JUMP_BACKWARD": jump("Jump"),
    "JUMP_BACKWARD_NO_INTERRUPT": jump("Jump"),
    "JUMP_IF_TRUE_OR_POP": jump("BranchKeep", "true"),
    "JUMP_IF_FALSE_OR_POP": jump("BranchKeep", "false"),
    "BEFORE_WITH": op("EnterWith", False),
    "BEFORE_ASYNC_WITH": op("EnterWith", True),
    "WITH_EXCEPT_START": op("WithExcept"),
    "PUSH_EXC_INFO": op("PushExc"),
    "CHECK_EXC_MATCH": op("Match"),
    "CHECK_EG_MATCH": op("MatchGroup"),
    "PREP_RERAISE_STAR": op("PrepReraiseStar"),
    "RERAISE": counted("Reraise"),
    "END_ASYNC_FOR": op("EndAsyncFor"),
    "MATCH_SEQUENCE": op("MatchSeq"),
    "MATCH_MAPPING": op("MatchMap"),
    "MATCH_KEYS": op("MatchKeys"),
    "MATCH_CLASS": counted("MatchClass"),
    "GET_LEN": op("GetLen"),
}
