"""Python 3.13: pairs of fast locals in one instruction, CALL_KW, function attributes one by one."""

from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.tables import py312
from torchard.compiler.decompile.tables.common import (
    COMPARE,
    CONVERSIONS,
    Lowering,
    Table,
    choice,
    nothing,
    op,
)

_PARTS = {1: "defaults", 2: "kwdefaults", 4: "annotations", 8: "closure", 16: "annotate"}


def _pair(first: str, second: str) -> Lowering:
    return lambda names, arg: (Op(first, names.fast(arg >> 4)), Op(second, names.fast(arg & 15)))


TABLE: Table = {
    **{name: way for name, way in py312.TABLE.items() if name not in {"KW_NAMES", "FORMAT_VALUE"}},
    "COMPARE_OP": lambda names, arg: (Op("Compare", COMPARE[arg >> 5]),),
    "TO_BOOL": nothing,  # only before a branch or `not`, which test by truth themselves
    "ENTER_EXECUTOR": nothing,
    "EXIT_INIT_CHECK": nothing,
    "MAKE_FUNCTION": op("MakeFunction", ()),
    "SET_FUNCTION_ATTRIBUTE": lambda names, arg: (Op("FunctionPart", _PARTS[arg]),),
    "CALL_KW": lambda names, arg: (Op("CallKw", arg),),
    "CONVERT_VALUE": choice("Convert", CONVERSIONS),
    "FORMAT_SIMPLE": op("Format", ("", False)),
    "FORMAT_WITH_SPEC": op("Format", ("", True)),
    "END_FOR": op("EndFor", 1),
    "LOAD_FAST_LOAD_FAST": _pair("Load", "Load"),
    "STORE_FAST_LOAD_FAST": _pair("Store", "Load"),
    "STORE_FAST_STORE_FAST": _pair("Store", "Store"),
}
