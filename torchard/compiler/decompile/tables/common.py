"""Lowerings that every supported Python shares, and the small helpers the tables are written with."""

from collections.abc import Callable, Sequence
from typing import Any

from torchard.compiler.decompile.ops import Op

Lowering = Callable[[Any, int], Sequence[Op]]
Table = dict[str, Lowering]

BINARY = ["+", "&", "//", "<<", "@", "*", "%", "|", "**", ">>", "-", "/", "^"]
COMPARE = ["<", "<=", "==", "!=", ">", ">="]
CONVERSIONS = ["", "s", "r", "a"]
FUNCTION_PARTS = ["defaults", "kwdefaults", "annotations", "closure"]


def op(name: str, argument: Any = None) -> Lowering:
    """Always the same operation."""
    return lambda names, arg: (Op(name, argument),)


def counted(name: str) -> Lowering:
    """The instruction's argument is the operation's."""
    return lambda names, arg: (Op(name, arg),)


def nothing(names: Any, arg: int) -> Sequence[Op]:
    """Bookkeeping that changes no value."""
    return ()


def fast(name: str) -> Lowering:
    return lambda names, arg: (Op(name, names.fast(arg)),)


def named(name: str) -> Lowering:
    return lambda names, arg: (Op(name, names.name(arg)),)


def variable(name: str, kind: str) -> Lowering:
    return lambda names, arg: (Op(name, (kind, names.name(arg))),)


def deref(name: str, kind: str) -> Lowering:
    return lambda names, arg: (Op(name, (kind, names.deref(arg))),)


def constant(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Const", names.const(arg)),)


def build(kind: str) -> Lowering:
    return lambda names, arg: (Op("Build", (kind, arg)),)


def choice(name: str, words: Sequence[str]) -> Lowering:
    return lambda names, arg: (Op(name, words[arg]),)


def jump(name: str, argument: Any = None) -> Lowering:
    """The argument is a distance or an address; the reader of the code object resolves it into ``target``."""
    return lambda names, arg: (Op(name, argument, names.jump(arg)),)


def make_function(names: Any, arg: int) -> Sequence[Op]:
    return (Op("MakeFunction", tuple(part for bit, part in enumerate(FUNCTION_PARTS) if arg >> bit & 1)),)


def unpack_ex(names: Any, arg: int) -> Sequence[Op]:
    return (Op("UnpackEx", (arg & 0xFF, arg >> 8)),)


def format_value(names: Any, arg: int) -> Sequence[Op]:
    return (Op("Format", (CONVERSIONS[arg & 3], bool(arg & 4))),)


def rotate(count: int) -> Sequence[Op]:
    """Bring the top of the stack ``count - 1`` places down, as swaps."""
    return tuple(Op("Swap", n) for n in range(count, 1, -1))


COMMON: Table = {
    "EXTENDED_ARG": nothing,
    "NOP": nothing,
    "POP_TOP": op("Pop"),
    "UNARY_NEGATIVE": op("Unary", "-"),
    "UNARY_NOT": op("Unary", "not "),
    "UNARY_INVERT": op("Unary", "~"),
    "STORE_SUBSCR": op("StoreSubscr"),
    "DELETE_SUBSCR": op("DeleteSubscr"),
    "GET_ITER": op("GetIter"),
    "GET_YIELD_FROM_ITER": op("GetYieldFromIter"),
    "GET_AITER": op("GetAiter"),
    "GET_ANEXT": op("GetAnext"),
    "LOAD_BUILD_CLASS": op("BuildClass"),
    "RETURN_VALUE": op("Return"),
    "SETUP_ANNOTATIONS": op("SetupAnnotations"),
    "YIELD_VALUE": op("Yield"),
    "POP_EXCEPT": op("PopExc"),
    "STORE_NAME": variable("Store", "name"),
    "DELETE_NAME": variable("Delete", "name"),
    "LOAD_NAME": variable("Load", "name"),
    "STORE_GLOBAL": variable("Store", "global"),
    "DELETE_GLOBAL": variable("Delete", "global"),
    "LOAD_FAST": fast("Load"),
    "STORE_FAST": fast("Store"),
    "DELETE_FAST": fast("Delete"),
    "LOAD_DEREF": deref("Load", "deref"),
    "STORE_DEREF": deref("Store", "deref"),
    "DELETE_DEREF": deref("Delete", "deref"),
    "UNPACK_SEQUENCE": counted("Unpack"),
    "UNPACK_EX": unpack_ex,
    "STORE_ATTR": named("StoreAttr"),
    "DELETE_ATTR": named("DeleteAttr"),
    "LOAD_CONST": constant,
    "BUILD_TUPLE": build("tuple"),
    "BUILD_LIST": build("list"),
    "BUILD_SET": build("set"),
    "BUILD_MAP": build("map"),
    "BUILD_SLICE": build("slice"),
    "BUILD_STRING": build("string"),
    "IMPORT_NAME": named("ImportName"),
    "IMPORT_FROM": named("ImportFrom"),
    "IS_OP": choice("Compare", ("is", "is not")),
    "CONTAINS_OP": choice("Compare", ("in", "not in")),
    "RAISE_VARARGS": counted("Raise"),
    "LIST_APPEND": counted("Append"),
    "SET_ADD": counted("AddSet"),
    "MAP_ADD": counted("AddMap"),
    "LIST_EXTEND": counted("Extend"),
    "SET_UPDATE": counted("UpdateSet"),
    "DICT_UPDATE": counted("UpdateDict"),
    "DICT_MERGE": counted("MergeDict"),
    "JUMP_FORWARD": jump("Jump"),
    "FOR_ITER": jump("ForIter"),
}
