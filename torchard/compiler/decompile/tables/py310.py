"""Python 3.10: pattern matching, jumps counted in instructions."""

from torchard.compiler.decompile.tables import py39
from torchard.compiler.decompile.tables.common import Table, counted, nothing, op, rotate

TABLE: Table = {
    **py39.TABLE,
    "MATCH_SEQUENCE": op("MatchSeq"),
    "MATCH_MAPPING": op("MatchMap"),
    "MATCH_KEYS": op("MatchKeysFlag"),
    "MATCH_CLASS": counted("MatchClassFlag"),
    "GET_LEN": op("GetLen"),
    "COPY_DICT_WITHOUT_KEYS": op("CopyWithoutKeys"),
    "ROT_N": lambda names, arg: rotate(arg),
    "GEN_START": nothing,
}
