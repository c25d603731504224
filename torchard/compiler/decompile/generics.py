"""Type parameters: ``def f[T]``, ``class A[T]`` and ``type X[T] = …`` (Python 3.12 and later).

The compiler puts what has type parameters into a function of its own, ``<generic parameters of f>``, which it
calls at once. That function is run symbolically here, and what it makes takes the place of the call. Bounds,
defaults of parameters and values of ``type`` statements are functions too, run when somebody asks: they are
read as the one expression that they return.
"""

import ast
import copy
from typing import Any

from torchard.compiler.decompile.made import Alias, Function, Generic
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import NONE, Impure, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, reads

GENERIC = "<generic parameters of "
_SYNTAX: Any = ast  # the nodes of type parameters are newer than the oldest Python this module is read by
_KEPT = {".type_params": "params", ".generic_base": "base"}


def is_generic(code: Any) -> bool:
    return bool(code.co_name.startswith(GENERIC))


# -- the call of a function of type parameters


def call(stack: Stack, count: int) -> bool:
    """Put what the function of type parameters makes into the place of its call; False if that cannot be
    said in one statement."""
    place = len(stack.slots) - count - 1
    function = stack.slots[place]
    names = function.data.code.co_varnames[:count]
    if not is_generic(function.data.code) or not set(names) <= {".defaults", ".kwdefaults"}:
        return False
    try:
        made = run(stack.scope, function.data.code)
    except Unstructured:
        return False
    del stack.slots[place]
    given = stack.take(count)
    if isinstance(made.data, Function):
        exprs = {title: slot.expr for title, slot in zip(names, given)}  # the first may hold either kind
        made.data.parts = {
            part: exprs.get(getattr(expr, "id", ""), expr) for part, expr in made.data.parts.items()
        }
    stack.push(made.kind, None, reads(given), made.data)
    return True


def run(outer: Any, code: Any) -> Slot:
    """Return what the code of type parameters makes: a function, a class or an alias.

    Raises:
        Unstructured: if it does anything else on the way.
    """
    from torchard.compiler.decompile.functions import structured
    from torchard.compiler.decompile.scope import Scope

    scope = Scope(code, outer)
    scope.hidden = scope.generic = True
    statements = structured(scope)
    if len(statements) != 1 or scope.made is None:
        raise Unstructured("type parameters with statements")
    return scope.made


def made(stack: Stack) -> None:
    """The return of a function of type parameters: keep what it made."""
    if stack.pure:
        raise Impure
    slot = stack.slots.pop()
    if slot.kind not in ("function", "class", "alias") or stack.slots:
        raise Unstructured("type parameters of something else than a function, class or alias")
    if slot.kind != "alias" and slot.data.generic is None:
        raise Unstructured("type parameters that are not used")
    stack.scope.made = slot
    stack.append(ast.Return(None))


# -- operations


def intrinsic(stack: Stack, op: Op) -> None:
    kind = op.arg[0]
    if op.arg[1] > len(stack.slots):
        raise Unstructured("stack underflow")
    _INTRINSICS[kind](stack, kind)


def _parameter(stack: Stack, kind: str) -> None:
    stack.push("param", data=getattr(_SYNTAX, kind)(_title(stack.slots.pop())))


def _title(slot: Slot) -> str:
    if slot.kind != "const" or not isinstance(slot.data, tuple) or not isinstance(slot.data[0], str):
        raise Unstructured("a type parameter with a computed name")
    return slot.data[0]


def _bounded(stack: Stack, kind: str) -> None:
    bound = evaluated(stack.scope, stack.slots.pop())
    if isinstance(bound, ast.Tuple) != (kind == "TypeVarWithConstraints"):
        raise Unstructured("a bound that reads as constraints, or the other way round")
    stack.push("param", data=_SYNTAX.TypeVar(_title(stack.slots.pop()), bound))


def _defaulted(stack: Stack, kind: str) -> None:
    default = evaluated(stack.scope, stack.slots.pop())
    if stack.slots[-1].kind != "param":
        raise Unstructured("a default of something else than a type parameter")
    stack.slots[-1].data.default_value = default


def evaluated(scope: Any, slot: Slot) -> ast.expr:
    """Return the expression that a function without statements computes when it is asked for its value."""
    from torchard.compiler.decompile.functions import as_expression

    if slot.kind != "function":
        raise Unstructured("a lazy value from something else than a new function")
    return as_expression(lazily(scope, slot.data.code))


def lazily(scope: Any, code: Any) -> "list[ast.stmt]":
    """Return the statements of a function that is run when somebody asks for a value or annotations, without
    the test of the format asked for that they begin with since 3.14."""
    from torchard.compiler.decompile.functions import structured
    from torchard.compiler.decompile.scope import Scope

    child = Scope(code, scope)
    child.hidden = True
    statements = structured(child)
    first = statements[0]
    if code.co_argcount and isinstance(first, ast.If) and isinstance(first.body[0], ast.Raise):
        return statements[1:]
    return statements


def parameter_apart(parameter: Any, temporary: str) -> "list[ast.stmt]":
    """A type parameter by itself has no syntax: take it from a function that has it."""
    fields: "dict[str, Any]" = {
        "name": temporary, "body": [ast.Pass()], "decorator_list": [], "returns": None,
        "type_params": [parameter],
        "args": ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]),
    }  # fmt: skip
    all_of_it = ast.Attribute(ast.Name(temporary, ast.Load()), "__type_params__", ast.Load())
    first = ast.Subscript(all_of_it, ast.Constant(0), ast.Load())
    return [ast.FunctionDef(**fields), ast.Assign([ast.Name(temporary, ast.Store())], first)]


def _base(stack: Stack, kind: str) -> None:
    """``Generic[T]``, the base that the compiler adds to a class with type parameters."""
    if stack.slots[-1].kind == "params":
        stack.slots[-1] = Slot("base")
        return
    (slot,) = stack.take(1)
    form = (
        "__import__('typing').Generic.__class_getitem__(tuple([q for p in _ for q in "
        "(p if type(p).__name__ == 'TypeVarTuple' else (p,))]))"
    )
    node: Any = ast.parse(form, mode="eval").body
    node.args[0].args[0].generators[0].iter = slot.expr
    stack.push("ordered", node, slot.reads)


def without_base(stack: Stack, count: int) -> int:
    """Take ``Generic[T]`` from among the top ``count`` values; return how many there were."""
    kept = [slot for slot in stack.slots[-count:] if slot.kind != "base"]
    stack.slots[-count:] = kept
    return count - len(kept)


def _set(stack: Stack, kind: str) -> None:
    """Give a function its type parameters."""
    params, function = stack.slots[-1], stack.slots[-2]
    if params.kind == "params" and function.kind == "function":
        del stack.slots[-2:]
        data = copy.copy(function.data)
        data.generic = Generic(stack.scope, params.data)
        stack.push("function", None, function.reads, data)
        return
    stack.slots[-2:] = [params, function]
    stack.settle(len(stack.slots) - 1)
    value, holder = stack.take(2)
    stack.append(ast.Assign([ast.Attribute(holder.expr, "__type_params__", ast.Store())], value.expr))
    stack.slots.append(holder)


def _alias(stack: Stack, kind: str) -> None:
    slot = stack.slots.pop()
    if slot.kind != "parts":
        raise Unstructured("a type alias of unknown form")
    title, params, function = slot.data
    found = _parameters(stack.scope, params)
    generic = Generic(stack.scope, found) if found else None
    value = evaluated(stack.scope, function)
    stack.push("alias", None, NONE, Alias(_title(title), value, generic))


_INTRINSICS: "dict[str, Any]" = {
    "TypeVar": _parameter, "ParamSpec": _parameter, "TypeVarTuple": _parameter, "TypeVarWithBound": _bounded,
    "TypeVarWithConstraints": _bounded, "SetTypeVarDefault": _defaulted, "SubscriptGeneric": _base,
    "SetTypeParams": _set, "TypeAlias": _alias,
}  # fmt: skip


# -- what lies on the stack in between


def build(stack: Stack, count: int) -> bool:
    """A tuple of type parameters, or of what a ``type`` statement is made of?"""
    slots = stack.slots[-count:]
    if stack.scope.generic and all(slot.kind == "param" for slot in slots):
        stack.slots[-count:] = [Slot("params", data=[slot.data for slot in slots])]
        return True
    if count == 3 and _makes_alias(stack.scope, *slots):
        stack.slots[-3:] = [Slot("parts", data=slots)]
        return True
    return False


def _makes_alias(scope: Any, title: Slot, params: Slot, function: Slot) -> bool:
    if title.kind != "const" or function.kind != "function" or not isinstance(title.data, tuple):
        return False
    bare = params.kind == "const" and params.data == (None,)
    return function.data.code.co_name == title.data[0] and (bare or bool(_parameters(scope, params)))


def _parameters(scope: Any, slot: Slot) -> "list[Any]":
    """The type parameters in a tuple of them, also where they went to temporaries."""
    if slot.kind == "params":
        return list(slot.data)
    parts = slot.expr.elts if isinstance(slot.expr, ast.Tuple) else []
    found = [scope.parameters.get(getattr(part, "id", None)) for part in parts]
    return [] if None in found else found


def store(stack: Stack, kind: str, identifier: str) -> bool:
    """A store that no statement says: of a type parameter, or of a name the compiler made."""
    slot = stack.slots[-1]
    scope = stack.scope
    hidden = scope.generic and (
        (slot.kind == "param" and identifier.endswith(slot.data.name))
        or (identifier in _KEPT and slot.kind == _KEPT[identifier])
    )
    if hidden and slot.kind != "param":
        scope.kept[identifier] = slot
    if hidden or (slot.data == "locals" and identifier == "__classdict__"):
        stack.slots.pop()
        return True
    return False


def load(stack: Stack, kind: str, identifier: str) -> bool:
    """A load of a name the compiler made."""
    if identifier in stack.scope.kept and kind != "closure":
        stack.slots.append(stack.scope.kept[identifier])
        return True
    if identifier == "__classdict__" and kind == "deref":
        stack.push("mark", data="locals")
        return True
    return False


def spread(stack: Stack, following: "Op | None") -> bool:
    """Does ``UNPACK_SEQUENCE 1`` belong to ``*args: *Ts`` or ``*Ts = *tuple[int]``?"""
    slots = stack.slots
    if following is None or len(slots) < 1:
        return False
    noted = len(slots) > 1 and slots[-2].kind == "const" and slots[-2].data and len(slots[-2].data) == 1
    note = noted and isinstance(slots[-2].data[0], str) and following.name in ("Const", "Build")
    lazy = stack.scope.hidden and not stack.scope.generic and following.name == "Return"
    if not note and not lazy:
        return False
    (slot,) = stack.take(1)
    stack.push("ordered", ast.Starred(slot.expr, ast.Load()), slot.reads)
    return True
