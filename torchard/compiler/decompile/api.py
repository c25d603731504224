"""The door: decompile anything callable, in the best way that can be proved."""

import ast
import functools
import importlib
import inspect
import itertools
import sys
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from torchard.compiler.decompile.flow import Malformed
from torchard.compiler.decompile.literals import Placeholders, literal
from torchard.compiler.decompile.ops import UnsupportedOpcode
from torchard.compiler.decompile.scope import Settings
from torchard.compiler.decompile.slots import Unstructured
from torchard.compiler.decompile.source import recompile, render
from torchard.compiler.decompile.verify import Equivalence, equivalent

_ATTEMPTS = 2


@dataclass(frozen=True)
class Decompiled:
    """Source of one function, how it was found, and what is proved about it.

    ``strategy`` is "structured" (control flow recovered throughout), "mixed" (some nested function as a
    dispatch loop) or "dispatch". ``equivalence`` is "identical", "equivalent" or "unverified". ``line_map``
    gives, for lines of ``source``, the line of the original file. ``unsupported`` tells why a better strategy
    was not possible.
    """

    source: str
    strategy: str
    equivalence: str
    temps: "tuple[str, ...]" = ()
    line_map: "dict[int, int]" = field(default_factory=dict)
    unsupported: "tuple[str, ...]" = ()


def decompile(obj: Any, *, name: "str | None" = None, verify: bool = True) -> str:
    """Return Python source that does what ``obj`` does.

    ``obj`` is a function, method, ``partial``, decorated function, callable object or code object of the
    running Python. ``name`` renames the function. A function with free variables is written inside
    ``__closure__``, a factory whose parameters they are.

    Raises:
        TypeError: if ``obj`` is not made of bytecode (a builtin, a class without ``__call__``).
        UnsupportedOpcode: if the bytecode holds an instruction this Python's table does not know.
    """
    result = decompile_code(obj, verify=verify)
    if name is None:
        return result.source
    code, _ = unwrap(obj)
    return _renamed(result.source, code, name)


def decompile_code(obj: Any, *, strategy: str = "auto", verify: bool = True) -> Decompiled:
    """Return the source of ``obj`` with what is known about it.

    ``strategy="structured"`` recovers control flow or fails, ``"dispatch"`` writes a loop over basic blocks,
    "auto" tries the first and takes the second where the proof fails. ``verify=False`` skips all proofs:
    faster, unsafe.

    Raises:
        TypeError: see :func:`decompile`.
        ValueError: if ``strategy`` is unknown, or no way works (the message tells why for each).
    """
    if strategy not in ("auto", "structured", "dispatch"):
        raise ValueError(f"`strategy={strategy!r}` is none of 'auto', 'structured', 'dispatch'")
    code, function = unwrap(obj)
    reasons: "list[str]" = []
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 12_000))
    try:
        best = _try_structured(code, function, reasons, verify=verify) if strategy != "dispatch" else None
        if best is not None and (best.equivalence != "unverified" or not verify or strategy == "structured"):
            return best
        if strategy == "structured":
            raise ValueError(f"`{code.co_name}` has no structured form: {_told(reasons)}")
        fallback = _try_dispatch(code, function, reasons, verify=verify)
    finally:
        sys.setrecursionlimit(limit)
    result = fallback or best
    if result is None:
        raise ValueError(f"`{code.co_name}` could not be decompiled: {_told(reasons)}")
    return result


def _told(reasons: "list[str]") -> str:
    return "; ".join(dict.fromkeys(reasons))  # both attempts often fail alike


def unwrap(obj: Any) -> "tuple[CodeType, Any]":
    """Return the code object behind a callable, and the function that holds it (None for a bare code
    object)."""
    seen = 0
    while seen < 100:
        seen += 1
        if isinstance(obj, CodeType):
            return obj, None
        if isinstance(obj, FunctionType):
            wrapped = getattr(obj, "__wrapped__", None)
            if wrapped is None:
                return obj.__code__, obj
            obj = wrapped
        elif isinstance(obj, (functools.partial, functools.partialmethod)):
            obj = obj.func
        elif isinstance(obj, (classmethod, staticmethod)) or inspect.ismethod(obj):
            obj = obj.__func__
        elif isinstance(obj, property):
            obj = obj.fget
        elif hasattr(obj, "__wrapped__"):
            obj = obj.__wrapped__
        elif not isinstance(obj, type) and isinstance(getattr(type(obj), "__call__", None), FunctionType):  # noqa: B004 - a Python function
            obj = type(obj).__call__
        else:
            break
    what = f"{obj!r:.80}"
    if callable(obj) and not isinstance(obj, type):
        raise TypeError(f"`obj` is {what}, which is written in C: it has no bytecode to decompile")
    raise TypeError(f"`obj` is {what}; give a function, a method or a code object")


def _try_structured(
    code: CodeType, function: Any, reasons: "list[str]", *, verify: bool
) -> "Decompiled | None":
    best: "Decompiled | None" = None
    for attempt in range(_ATTEMPTS):
        settings = Settings(code, attempt=attempt)
        found = _attempt(code, function, settings, reasons, verify=verify, dispatch=False)
        if found is not None:
            if found.equivalence != "unverified":
                return found
            best = best or found
    return best


def _try_dispatch(
    code: CodeType, function: Any, reasons: "list[str]", *, verify: bool
) -> "Decompiled | None":
    return _attempt(code, function, Settings(code), reasons, verify=verify, dispatch=True)


def _attempt(code: CodeType, function: Any, settings: Settings, reasons: "list[str]", *, verify: bool,
             dispatch: bool) -> "Decompiled | None":  # fmt: skip
    try:
        source = render(code, settings, _parts(function, settings), dispatch=dispatch)
        twin = recompile(source, code)
    except UnsupportedOpcode:
        raise
    except Exception as error:  # hand-made bytecode can be wrong in any way: that is a reason, not a crash
        known = isinstance(error, (Unstructured, Malformed, SyntaxError, ValueError))
        told = str(error) if known else f"{type(error).__name__}: {error}"
        reasons.append(f"{'dispatch' if dispatch else 'structured'}: {told}")
        return None
    verdict = Equivalence("unverified", "not asked for")
    if verify:
        verdict = equivalent(code, twin, counter=settings.counter if dispatch else None)
        if not verdict:
            reasons.append(f"{'dispatch' if dispatch else 'structured'} not proved: {verdict.difference}")
    strategy = "dispatch" if dispatch else "mixed" if settings.unstructured else "structured"
    temps = tuple(settings.temporaries)
    return Decompiled(source, strategy, verdict.kind, temps, settings.line_map, tuple(dict.fromkeys(reasons)))


def _parts(function: Any, settings: Settings) -> "dict[str, ast.expr]":
    """Defaults and annotations as the function object holds them, where they have a form to be shown in."""
    parts: "dict[str, ast.expr]" = {}
    if function is None:
        return parts
    if function.__defaults__:
        parts["defaults"] = ast.Tuple([_shown(value) for value in function.__defaults__], ast.Load())
    if function.__kwdefaults__:
        keys = list(function.__kwdefaults__)
        values = [_shown(function.__kwdefaults__[key]) for key in keys]
        parts["kwdefaults"] = ast.Dict([ast.Constant(key) for key in keys], values)
    notes = _annotations(function)
    parts["annotations"] = ast.Dict([ast.Constant(key) for key in notes], list(notes.values()))
    return parts


def _annotations(function: Any) -> "dict[str, ast.expr]":
    if sys.version_info >= (3, 14):  # as text, without running what they say
        library = importlib.import_module("annotationlib")
        found = library.get_annotations(function, format=library.Format.STRING)
    else:
        found = function.__annotations__
    return {key: _noted(kind) for key, kind in found.items()}


def _noted(kind: Any) -> ast.expr:
    """An annotation is only shown, too: a class by its name, text as what it says."""
    text = kind if isinstance(kind, str) else ""
    if isinstance(kind, type) and type(kind).__module__ == "builtins":
        text = kind.__qualname__.rsplit(".", 1)[-1]
    elif kind is None or type(kind).__module__ in ("typing", "types"):
        text = repr(kind)
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return ast.Constant(...)


def _shown(value: Any) -> ast.expr:
    """A default is only shown: the function object keeps its own."""
    if isinstance(value, (list, dict, set)) and not value:
        return ast.parse(repr(value), mode="eval").body
    if isinstance(value, (str, bytes, bool, int, float, complex, type(None), type(Ellipsis), tuple)):
        return literal(value, _NOTHING)
    return ast.Constant(...)


class _Nothing(Placeholders):
    def name(self, value: Any) -> str:
        return f"<{type(value).__name__}>"


_NOTHING = _Nothing((lambda: None).__code__)


def _renamed(source: str, code: CodeType, name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"`name={name!r}` is not an identifier")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name != "__closure__":
            node.name = name
            break
    comments = itertools.takewhile(lambda line: line.startswith("#"), source.splitlines(keepends=True))
    return "".join(comments) + ast.unparse(tree) + "\n"
