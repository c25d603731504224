"""The verdict on two code objects: identical, equivalent, or unverified with the first difference."""

from dataclasses import dataclass
from types import CodeType
from typing import Any

from torchard.compiler.decompile.flow import Malformed, clean
from torchard.compiler.decompile.ops import Op, UnsupportedOpcode
from torchard.compiler.decompile.reader import read
from torchard.compiler.decompile.verify import lockstep, walk
from torchard.compiler.decompile.verify.cells import fold_cells
from torchard.compiler.decompile.verify.constants import constant_key, nested_codes

_KINDS = (
    0x4 | 0x8 | 0x20 | 0x80 | 0x100 | 0x200
)  # *args, **kwargs, generator, coroutine, iterable coroutine, async
_RANK = {"identical": 2, "equivalent": 1, "unverified": 0}


@dataclass(frozen=True)
class Equivalence:
    """``kind`` is "identical", "equivalent" (up to temporaries) or "unverified"; ``difference`` tells why not
    better."""

    kind: str
    difference: str = ""

    def __bool__(self) -> bool:
        return self.kind != "unverified"


def equivalent(a: CodeType, b: CodeType, *, counter: "str | None" = None) -> Equivalence:
    """Prove that ``b`` does what ``a`` does: same interface, then a walk in step, then a symbolic run in
    step.

    ``counter`` names the local that a dispatch loop in ``b`` steers by. Nested code objects are compared
    likewise. "unverified" is not "different": it says that no proof was found.
    """
    trouble = interface_difference(a, b)
    if trouble:
        return Equivalence("unverified", trouble)
    try:
        first, second = operations(a), operations(b)
    except (Malformed, UnsupportedOpcode, IndexError, KeyError) as error:  # wrong bytecode proves nothing
        return Equivalence("unverified", f"{type(error).__name__}: {error}")
    keys = _Keys(a, b)
    trouble = walk.difference(first, second, keys)
    if trouble is None:
        return Equivalence(keys.worst, keys.trouble)
    symbolic = lockstep.difference(first, second, keys, counter=counter)
    if symbolic is None:
        return Equivalence("equivalent", trouble)
    return Equivalence("unverified", symbolic)


def interface_difference(a: CodeType, b: CodeType) -> "str | None":
    """Return what a caller could see of another signature, kind or closure, or None."""
    for what in ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount"):
        if getattr(a, what) != getattr(b, what):
            return f"{what} is {getattr(b, what)} instead of {getattr(a, what)}"
    if (a.co_flags ^ b.co_flags) & _KINDS:
        return f"another kind of function: flags {a.co_flags & _KINDS:#x} / {b.co_flags & _KINDS:#x}"
    if parameters(a) != parameters(b):
        return f"parameters are {parameters(b)} instead of {parameters(a)}"
    if set(a.co_freevars) != set(b.co_freevars):
        return f"free variables are {b.co_freevars} instead of {a.co_freevars}"
    if set(a.co_cellvars) != set(b.co_cellvars):
        return f"cell variables are {b.co_cellvars} instead of {a.co_cellvars}"
    return None


def parameters(code: CodeType) -> "tuple[str, ...]":
    """Return the names of all parameters, ``*args`` and ``**kwargs`` last."""
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_varnames[: count + bool(code.co_flags & 4) + bool(code.co_flags & 8)]


class _Keys:
    """The key of a constant of either side; nested code objects that are equivalent share one."""

    def __init__(self, a: CodeType, b: CodeType) -> None:
        self.parameters = frozenset(parameters(a))
        self.worst = "identical"
        self.trouble = ""
        self._codes: dict = {}
        originals: list = []
        for code in nested_codes(a):
            if id(code) not in self._codes:
                twin = next(
                    (old for old in originals if _same_name(old, code) and equivalent(old, code)), code
                )
                originals.append(code)
                self._codes[id(code)] = ("code", id(twin))
        for code in nested_codes(b):
            self._match(code, originals)

    def _match(self, code: CodeType, originals: "list[CodeType]") -> None:
        for old in originals:
            if not _same_name(old, code):
                continue
            verdict = equivalent(old, code)
            if verdict:
                self._codes[id(code)] = self._codes[id(old)]
                if _RANK[verdict.kind] < _RANK[self.worst]:
                    self.worst, self.trouble = verdict.kind, verdict.difference
                return
            self.trouble = self.trouble or f"in {code.co_name}: {verdict.difference}"

    def __call__(self, value: Any) -> Any:
        return constant_key(value, self._codes)


def _same_name(a: CodeType, b: CodeType) -> bool:
    return a.co_name == b.co_name


def operations(code: CodeType) -> "list[Op]":
    """Return the clean operations of ``code``, as the verifier reads them."""
    return fold_cells(clean(read(code)).ops)
