"""Operations that only statements can say in a dispatch loop: exception and pattern matching, saved
variables."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, name


def run(d: Any, stack: Stack, ops: "list[Op]") -> None:
    """Run operations for the dispatch loop ``d``; those that expressions cannot say are written as
    statements."""
    plain: "list[Op]" = []
    for op in ops:
        special = _SPECIAL.get(op.name)
        if op.name == "Store":
            expressions.run(stack, plain)
            plain = []
            saved = stack.slots[-1] if stack.slots else None
            special = _store if saved is not None and saved.kind == "mark" and saved.data == "c" else None
        if special is None:
            plain.append(op)
            continue
        expressions.run(stack, plain)
        plain = []
        stack.line = op.line
        special(d, stack, op)
    expressions.run(stack, plain)


def _match(d: Any, stack: Stack, op: Op) -> None:
    """``try: raise`` asks the interpreter itself whether the exception matches."""
    (kind,) = stack.take(1)
    stack.flush()
    answer = d.scope.temporary()
    held = d.scope.temporary()
    d.imports.add("BaseException")
    stack.append(assign(held, kind.expr))
    yes = ast.ExceptHandler(name(held), None, [assign(answer, ast.Constant(True))])
    no = ast.ExceptHandler(name(d.builtin("BaseException")), None, [assign(answer, ast.Constant(False))])
    stack.append(ast.Try([ast.Raise(None, None)], [yes, no], [], []))
    stack.push("pure", name(answer), frozenset((answer,)))


def _load_clear(d: Any, stack: Stack, op: Op) -> None:
    """An inlined comprehension's variable is put away as a tuple: empty if it is not bound."""
    variable = op.arg[1]
    title = d.slot(len(stack.slots))
    stack.touch(variable)
    stack.touch(title)  # a slot further down may still read what the last block left there
    stack.flush()
    held = ast.Tuple([name(variable)], ast.Load())
    unbound = ast.ExceptHandler(
        name(d.builtin("NameError")), None, [assign(title, ast.Tuple([], ast.Load()))]
    )
    stack.append(ast.Try([assign(title, held)], [unbound], [], []))
    stack.slots.append(Slot("mark", name(title), data="c"))


def _store(d: Any, stack: Stack, op: Op) -> None:
    """Give an inlined comprehension's variable back."""
    variable = op.arg[1]
    held = stack.slots.pop().expr
    stack.touch(variable)
    stack.flush()
    bind = ast.Assign([ast.Tuple([name(variable, ast.Store())], ast.Store())], held)
    free: "list[ast.stmt]" = [assign(variable, ast.Constant(None)), ast.Delete([name(variable, ast.Del())])]
    stack.append(ast.If(held, [bind], free))


def _match_sequence(d: Any, stack: Stack, op: Op) -> None:
    _match_kind(d, stack, ast.MatchSequence([ast.MatchStar(None)]))


def _match_mapping(d: Any, stack: Stack, op: Op) -> None:
    _match_kind(d, stack, ast.MatchMapping([], [], None))


def _match_kind(d: Any, stack: Stack, pattern: Any) -> None:
    """Ask the interpreter itself, by a ``match`` statement; the subject stays."""
    subject = _subject(d, stack, 1)
    answer = d.scope.temporary()
    _ask(stack, subject, pattern, answer, ast.Constant(True), ast.Constant(False))
    stack.push("pure", name(answer), frozenset((answer,)))


def _subject(d: Any, stack: Stack, place: int) -> ast.expr:
    where = len(stack.slots) - place
    if stack.slots[where].kind in ("dup", "target"):
        stack.settle(where)
    stack.flush()
    slot = stack.slots[where]
    if slot.kind not in ("pure", "const"):
        raise Unstructured("a match on something that is no value")
    return slot.expr


def _ask(stack: Stack, subject: ast.expr, pattern: Any, answer: str, yes: ast.expr, no: ast.expr) -> None:
    cases = [
        ast.match_case(pattern, None, [assign(answer, yes)]),
        ast.match_case(ast.MatchAs(None, None), None, [assign(answer, no)]),
    ]
    stack.append(ast.Match(subject, cases))


def _match_class(d: Any, stack: Stack, op: Op) -> None:
    names = stack.slots[-1]
    if names.kind != "const":
        raise Unstructured("a class pattern with computed names")
    stack.slots.pop()
    (kind,) = stack.take(1)
    (subject,) = stack.take(1)
    stack.flush()
    held, answer = d.scope.temporary(), d.scope.temporary()
    stack.append(assign(held, kind.expr))
    parts = [d.scope.temporary() for _ in range(op.arg + len(names.data[0]))]
    patterns: "list[Any]" = [ast.MatchAs(None, part) for part in parts]
    pattern = ast.MatchClass(name(held), patterns[: op.arg], list(names.data[0]), patterns[op.arg :])
    found = ast.Tuple([name(part) for part in parts], ast.Load())
    _ask(stack, subject.expr, pattern, answer, found, ast.Constant(None))
    stack.push("pure", name(answer), frozenset((answer,)))


def _match_keys(d: Any, stack: Stack, op: Op) -> None:
    keys = stack.slots[-1]
    if keys.kind != "const":
        raise Unstructured("a mapping pattern with computed keys")
    subject = _subject(d, stack, 2)
    answer = d.scope.temporary()
    parts = [d.scope.temporary() for _ in keys.data[0]]
    literals: "list[Any]" = [ast.MatchValue(d.scope.literal(key)) for key in keys.data[0]]
    pattern = ast.MatchMapping([one.value for one in literals], [*map(_captured, parts)], None)
    found = ast.Tuple([name(part) for part in parts], ast.Load())
    _ask(stack, subject, pattern, answer, found, ast.Constant(None))
    stack.push("pure", name(answer), frozenset((answer,)))


def _match_class_flag(d: Any, stack: Stack, op: Op) -> None:
    _match_class(d, stack, op)
    _flag(stack)


def _match_keys_flag(d: Any, stack: Stack, op: Op) -> None:
    _match_keys(d, stack, op)
    _flag(stack)


def _flag(stack: Stack) -> None:
    """In 3.10 whether it matched lies on the stack too."""
    found = stack.slots[-1]
    stack.push("pure", ast.Compare(found.expr, [ast.IsNot()], [ast.Constant(None)]), found.reads)


def _copy_without_keys(d: Any, stack: Stack, op: Op) -> None:
    """``**rest`` of a mapping pattern, up to 3.10."""
    subject = _subject(d, stack, 2)
    (keys,) = stack.take(1)
    stack.flush()
    rest, key = d.scope.temporary(), d.scope.temporary()
    stack.append(assign(rest, ast.Dict([None], [subject])))
    target = ast.Subscript(name(rest), name(key), ast.Del())
    stack.append(ast.For(name(key, ast.Store()), keys.expr, [ast.Delete([target])], []))
    stack.push("pure", name(rest), frozenset((rest,)))


def _captured(part: str) -> Any:
    return ast.MatchAs(None, part)


def _get_len(d: Any, stack: Stack, op: Op) -> None:
    subject = _subject(d, stack, 1)
    stack.push("ordered", ast.Call(name(d.builtin("len")), [subject], []))


def assign(title: str, value: ast.expr) -> ast.stmt:
    """``title = value``."""
    return ast.Assign([name(title, ast.Store())], value)


_SPECIAL: "dict[str, Any]" = {
    "Match": _match, "LoadClear": _load_clear, "MatchSeq": _match_sequence, "MatchMap": _match_mapping,
    "MatchClass": _match_class, "MatchKeys": _match_keys, "GetLen": _get_len,
    "MatchClassFlag": _match_class_flag, "MatchKeysFlag": _match_keys_flag,
    "CopyWithoutKeys": _copy_without_keys,
}  # fmt: skip
