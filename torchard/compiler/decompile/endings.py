"""How a block of a dispatch loop ends: a test, a step of a loop, a context entered, an exception put away."""

import ast
from typing import Any

from torchard.compiler.decompile.asking import assign
from torchard.compiler.decompile.conditions import negate
from torchard.compiler.decompile.ops import Op
from torchard.compiler.decompile.slots import Unstructured
from torchard.compiler.decompile.stack import Stack, name


def _pop_exception(d: Any, stack: Stack, op: Op, end: int) -> None:
    if not stack.slots or stack.slots[-1].kind != "mark":
        raise Unstructured("an exception is put away out of turn")
    stack.slots.pop()
    d.leave(stack, end)
    if op.arg is None:  # what held the exception must not keep it alive
        stack.out.insert(len(stack.out) - 1, assign(d.slot(d.position(op) + 1), ast.Constant(None)))


def _reraise(d: Any, stack: Stack, op: Op, end: int) -> None:
    stack.flush()
    stack.append(ast.Raise(None, None))


def _branch(d: Any, stack: Stack, op: Op, end: int) -> None:
    (test,) = d.settle(stack, 1)
    if op.arg in ("none", "not none"):
        test = ast.Compare(test, [ast.Is()], [ast.Constant(None)])
    positive = op.arg in ("true", "none")
    yes, no = (op.target, end) if positive else (end, op.target)
    stack.append(_goto(d, test, yes, no))


def _branch_keep(d: Any, stack: Stack, op: Op, end: int) -> None:
    position = len(stack.slots) - 1
    d.settle(stack, 0)
    test: ast.expr = name(d.slot(position))
    yes, no = (op.target, end) if op.arg == "true" else (end, op.target)
    stack.append(_goto(d, test, yes, no))


def _goto(d: Any, test: ast.expr, yes: int, no: int) -> ast.stmt:
    then: "list[ast.stmt]" = [assign(d.counter, ast.Constant(d.at(yes)))]
    other: "list[ast.stmt]" = [assign(d.counter, ast.Constant(d.at(no)))]
    if yes > no and isinstance(test, ast.UnaryOp):
        return ast.If(negate(test), other, then)
    return ast.If(test, then, other)


def _for_iter(d: Any, stack: Stack, op: Op, end: int) -> None:
    d.settle(stack, 0)
    places = len(d.stacks[end]) - 1
    iterator = name(d.slot(places - 1))
    asynchronous = op.name == "AsyncForIter"
    call = d.step(iterator, asynchronous=asynchronous)
    stop = d.builtin("StopAsyncIteration" if asynchronous else "StopIteration")
    step = assign(d.slot(places), call)
    done = ast.ExceptHandler(name(stop), None, [assign(d.counter, ast.Constant(d.at(op.target)))])
    stack.append(ast.Try([step], [done], [assign(d.counter, ast.Constant(d.at(end)))], []))


def _enter(d: Any, stack: Stack, op: Op, end: int) -> None:
    index = d.ops.index(op)
    (manager,) = d.settle(stack, 1)
    stack.append(assign(d.free(f"m{index}"), manager))
    stack.append(assign(d.counter, ast.Constant(d.at(end))))


def _jump(d: Any, stack: Stack, op: Op, end: int) -> None:
    d.leave(stack, op.target)


ENDINGS: "dict[str, Any]" = {
    "Branch": _branch, "BranchKeep": _branch_keep, "ForIter": _for_iter, "AsyncForIter": _for_iter,
    "PopExc": _pop_exception, "Reraise": _reraise, "EnterWith": _enter, "Jump": _jump,
}  # fmt: skip
