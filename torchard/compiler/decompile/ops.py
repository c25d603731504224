"""Version-free micro-operations: what a bytecode instruction does, without how this Python encodes it."""

from typing import Any


class UnsupportedOpcode(ValueError):
    """An instruction that no table knows; names the opcode and the Python version."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f"opcode {name!r} of Python {version} has no lowering; decompile on a supported version"
        )
        self.name = name
        self.version = version


class Op:
    """One micro-operation. ``target`` is an index into the list of operations, ``handler`` an exception-table
    row."""

    __slots__ = ("arg", "handler", "line", "name", "offset", "target")

    def __init__(self, name: str, arg: Any = None, target: Any = None) -> None:
        self.name = name
        self.arg = arg
        self.target = target
        self.offset = -1
        self.line: Any = None
        self.handler: Any = None

    def __repr__(self) -> str:
        jump = "" if self.target is None else f" -> {self.target}"
        guard = "" if self.handler is None else f"  !{self.handler.target}@{self.handler.depth}"
        return f"{self.name} {self.arg!r}{jump}{guard}"


class Handler:
    """Where an exception goes: the first operation of the handler, and the stack depth it keeps."""

    __slots__ = ("depth", "lasti", "target")

    def __init__(self, target: int, depth: int, lasti: bool) -> None:
        self.target = target
        self.depth = depth
        self.lasti = lasti

    def __repr__(self) -> str:
        return f"Handler({self.target}, {self.depth}, {self.lasti})"


MATCHING = frozenset({"MatchSeq", "MatchMap", "MatchKeys", "MatchClass", "MatchKeysFlag", "MatchClassFlag"})
JUMPS = frozenset({"Jump", "Branch", "BranchKeep", "ForIter", "AsyncForIter", "BranchMatch"})
ENDS = frozenset({"Jump", "Return", "Raise", "Reraise"})
SILENT = frozenset({"Const", "Copy", "Swap", "Pop", "Jump", "Null", "PushExc", "PopExc"})


def _fixed(pops: int, pushes: int) -> Any:
    return lambda arg: (pops, pushes)


EFFECTS: "dict[str, Any]" = {
    "Null": _fixed(0, 1),
    "Const": _fixed(0, 1),
    "Load": _fixed(0, 1),
    "LoadClear": _fixed(0, 1),
    "LoadLocals": _fixed(0, 1),
    "LoadFromDict": _fixed(1, 1),
    "Store": _fixed(1, 0),
    "Delete": _fixed(0, 0),
    "Unary": _fixed(1, 1),
    "Binary": _fixed(2, 1),
    "Inplace": _fixed(2, 1),
    "Compare": _fixed(2, 1),
    "ChainLink": _fixed(2, 2),
    "Attr": _fixed(1, 1),
    "Method": _fixed(1, 2),
    "SuperAttr": _fixed(3, 1),
    "SuperMethod": _fixed(3, 2),
    "StoreAttr": _fixed(2, 0),
    "DeleteAttr": _fixed(1, 0),
    "Subscr": _fixed(2, 1),
    "StoreSubscr": _fixed(3, 0),
    "DeleteSubscr": _fixed(2, 0),
    "BinSlice": _fixed(3, 1),
    "StoreSlice": _fixed(4, 0),
    "Build": lambda arg: (arg[1] * 2 if arg[0] == "map" else arg[1], 1),
    "ConstKeyMap": lambda arg: (arg + 1, 1),
    "Append": _fixed(1, 0),
    "AddSet": _fixed(1, 0),
    "AddMap": _fixed(2, 0),
    "Extend": _fixed(1, 0),
    "UpdateSet": _fixed(1, 0),
    "UpdateDict": _fixed(1, 0),
    "MergeDict": _fixed(1, 0),
    "ListToTuple": _fixed(1, 1),
    "Unpack": lambda arg: (1, arg),
    "UnpackEx": lambda arg: (1, arg[0] + arg[1] + 1),
    "Call": lambda arg: (arg[0] + 1, 1),
    "CallEx": lambda arg: (3 if arg else 2, 1),
    "MakeFunction": lambda arg: (len(arg) + 1, 1),
    "FunctionPart": _fixed(2, 1),
    "Format": lambda arg: (2 if arg[1] else 1, 1),
    "Convert": _fixed(1, 1),
    "Interpolation": lambda arg: (3 if arg[1] else 2, 1),
    "BuildTemplate": _fixed(2, 1),
    "ImportName": _fixed(2, 1),
    "ImportFrom": _fixed(0, 1),
    "ImportStar": _fixed(1, 0),
    "Branch": _fixed(1, 0),
    "Jump": _fixed(0, 0),
    "GetIter": _fixed(1, 1),
    "GetYieldFromIter": _fixed(1, 1),
    "GetAwaitable": _fixed(1, 1),
    "YieldFrom": _fixed(1, 1),
    "Await": _fixed(1, 1),
    "Yield": _fixed(1, 1),
    "GetAiter": _fixed(1, 1),
    "GetAnext": _fixed(0, 1),
    "EnterWith": _fixed(1, 2),
    "ExitWith": _fixed(1, 0),
    "WithExcept": _fixed(0, 1),
    "PushExc": _fixed(1, 2),
    "PopExc": _fixed(1, 0),
    "Match": _fixed(1, 1),
    "MatchGroup": _fixed(2, 2),
    "PrepReraiseStar": _fixed(2, 1),
    "Reraise": _fixed(1, 0),
    "EndAsyncFor": _fixed(2, 0),
    "CleanupThrow": _fixed(3, 2),
    "StopIterationError": _fixed(1, 1),
    "MatchSeq": _fixed(0, 1),
    "MatchMap": _fixed(0, 1),
    "MatchKeys": _fixed(0, 1),
    "MatchClass": _fixed(3, 1),
    "MatchKeysFlag": _fixed(0, 2),
    "MatchClassFlag": _fixed(3, 2),
    "GetLen": _fixed(0, 1),
    "CopyWithoutKeys": _fixed(1, 1),
    "Copy": _fixed(0, 1),
    "Swap": _fixed(0, 0),
    "Permute": _fixed(0, 0),
    "Pop": _fixed(1, 0),
    "Return": _fixed(1, 0),
    "Raise": lambda arg: (arg, 0),
    "BuildClass": _fixed(0, 1),
    "Common": _fixed(0, 1),
    "Special": _fixed(1, 2),
    "SetupAnnotations": _fixed(0, 0),
    "PrintExpr": _fixed(1, 0),
    "Intrinsic": lambda arg: (arg[1], 1),
    "NotImplemented": _fixed(0, 0),
}
