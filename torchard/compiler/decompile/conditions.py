"""Short-circuit tests, conditional expressions and chained comparisons, folded back from branches."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions, loops
from torchard.compiler.decompile.graph import Block
from torchard.compiler.decompile.slots import Impure, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack

_FLIPPED: "dict[type, Any]" = {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}


class Cond:
    """A test over one or more blocks: where it leads if true and if false, and which way keeps the tested
    value."""

    __slots__ = ("expr", "keep_no", "keep_yes", "members", "no", "reads", "yes")

    def __init__(self, expr: ast.expr, yes: Block, no: Block, keep_yes: bool, keep_no: bool,
                 members: "list[Block]",
                 reads: "frozenset[str]") -> None:  # fmt: skip
        self.expr = expr
        self.yes, self.no = yes, no
        self.keep_yes, self.keep_no = keep_yes, keep_no
        self.members = members
        self.reads = reads


def negate(expr: ast.expr) -> ast.expr:
    """Return the opposite test."""
    if isinstance(expr, ast.UnaryOp) and isinstance(expr.op, ast.Not):
        return expr.operand
    if isinstance(expr, ast.Compare) and len(expr.ops) == 1 and type(expr.ops[0]) in _FLIPPED:
        return ast.Compare(expr.left, [_FLIPPED[type(expr.ops[0])]()], expr.comparators)
    return ast.UnaryOp(ast.Not(), expr)


def join(sign: Any, left: ast.expr, right: ast.expr) -> ast.expr:
    """``left and right``, flat where one of them already is of that kind."""
    values = []
    for value in (left, right):
        if isinstance(value, ast.BoolOp) and isinstance(value.op, sign):
            values.extend(value.values)
        else:
            values.append(value)
    return ast.BoolOp(sign(), values)


class Conditions:
    """Folds the branches of one graph; results are remembered, as the same blocks are asked for again and
    again."""

    def __init__(self, graph: Any, scope: Any) -> None:
        self.graph = graph
        self.scope = scope
        self.structure: Any = None
        self.done: "set[Block]" = set()
        self._conds: "dict[Any, list[Cond]]" = {}
        self._impure: "set[Block]" = set()

    # -- tests

    def fold(self, block: Block, stack: Stack) -> Cond:
        """Return the test that starts with the value on top of the stack, which is popped."""
        if stack.slots and stack.slots[-1].kind == "chain":
            cond = self._fold_chain(block, stack)
        else:
            cond = self._single(block, stack)
        while True:
            wider = self._widen(cond, stack.slots)
            if wider is None:
                return cond
            cond = wider

    def _single(self, block: Block, stack: Stack) -> Cond:
        op = block.ops[-1]
        follow, jump = block.succs
        keep = op.name == "BranchKeep"
        waiting = stack.slots[-1].data if stack.slots and stack.slots[-1].kind == "mid" else None
        if waiting is not None and op.arg in ("none", "not none"):  # a < b is None
            stack.slots.pop()
            slot, link = waiting, waiting.expr
            expr = ast.Compare(link.left, [*link.ops, ast.Is()], [*link.comparators, ast.Constant(None)])
        else:
            (slot,) = stack.take(1)
            expr = slot.expr
        if op.arg in ("none", "not none") and waiting is None:
            expr = ast.Compare(expr, [ast.Is()], [ast.Constant(None)])
        if op.arg in ("true", "none"):
            return Cond(expr, jump, follow, keep, False, [block], slot.reads)
        return Cond(expr, follow, jump, False, keep, [block], slot.reads)

    def _fold_chain(self, block: Block, stack: Stack) -> Cond:
        """``a < b < c``: the middle value waits on the stack; if a link fails it is dropped on a way of its
        own."""
        stack.slots.pop()
        keep = block.ops[-1].name == "BranchKeep"
        if block.ops[-1].arg != "false":
            raise Unstructured("a chained comparison of unknown form")
        inner, failed = block.succs
        failed = self._dropped(failed, keep)
        members = [block, block.succs[1]]
        waiting = list(stack.slots)
        stack.slots.pop()
        part = Stack(self.scope, waiting, pure=True)
        if not self._foldable(inner, members):
            raise Impure
        members.append(inner)
        has_branch = inner.ops and inner.ops[-1].name in ("Branch", "BranchKeep")
        expressions.run(part, inner.ops[:-1] if has_branch else inner.ops)
        if not has_branch:
            if len(inner.succs) != 1 or inner.succs[0] is not failed or not keep:
                raise Unstructured("a chained comparison of unknown form")
            (slot,) = part.take(1)
            return Cond(slot.expr, failed, failed, True, True, members, slot.reads)
        cond = self._fold_chain(inner, part) if part.slots[-1].kind == "chain" else self._single(inner, part)
        if cond.no is not failed or cond.keep_no is not keep:
            raise Unstructured("a chained comparison of unknown form")
        return Cond(
            cond.expr, cond.yes, cond.no, cond.keep_yes, cond.keep_no, members + cond.members, cond.reads
        )

    def _dropped(self, block: Block, keep: bool) -> Block:
        names = [op.name for op in block.ops]
        if names != (["Swap", "Pop"] if keep else ["Pop"]) or len(block.succs) != 1:
            raise Unstructured("a chained comparison of unknown form")
        return block.succs[0]

    def _widen(self, cond: Cond, slots: "list[Slot]") -> "Cond | None":
        """Take the next test in, if it shares a target with this one."""
        if not cond.keep_yes:
            for other in self._tests(cond.yes, cond.members, slots):
                wider = _combine_yes(cond, other)
                if wider is not None:
                    return wider
        if not cond.keep_no:
            for other in self._tests(cond.no, cond.members, slots):
                wider = _combine_no(cond, other)
                if wider is not None:
                    return wider
        if not cond.keep_yes and not cond.keep_no:
            for first in self._tests(cond.yes, cond.members, slots):
                for second in self._tests(cond.no, cond.members, slots):
                    wider = _combine_both(cond, first, second)
                    if wider is not None:
                        return wider
        return None

    def _tests(self, block: Block, members: "list[Block]", slots: "list[Slot]") -> "list[Cond]":
        """The tests that begin in ``block``, entered only from ``members``: the first branch, and those
        behind it as long as what lies between is one value."""
        if not self._foldable(block, members):
            return []
        key = (block, tuple([slot.uid for slot in slots]))
        known = self._conds.get(key)
        if known is None:
            known = self._conds[key] = []
            self._collect(block, slots, known)
        return known

    def _collect(self, block: Block, slots: "list[Slot]", found: "list[Cond]") -> None:
        stack = Stack(self.scope, list(slots), pure=True)
        visited: "list[Block]" = []
        height = len(slots)
        try:
            while True:
                while loops.inlined(stack, block):
                    block = loops.comprehension(self.structure, stack, block, visited)
                visited.append(block)
                last = block.ops[-1].name if block.ops else ""
                if last not in ("Branch", "BranchKeep"):
                    expressions.run(stack, block.ops)
                    if len(block.succs) != 1:
                        return
                    block = block.succs[0]
                else:
                    expressions.run(stack, block.ops[:-1])
                    cond = self.fold(block, stack)
                    if len(stack.slots) == height:
                        members = visited + cond.members
                        found.append(
                            Cond(
                                cond.expr, cond.yes, cond.no, cond.keep_yes, cond.keep_no, members, cond.reads
                            )
                        )
                    after = self.value(stack, block, cond, visited)
                    if after is None:
                        return
                    block = after
                if not self._foldable(block, visited) and not loops.inlined(stack, block):
                    return
        except (Impure, Unstructured):
            return

    def _foldable(self, block: Block, members: "list[Block]") -> bool:
        if block.kind != "plain" or block in self.graph.loops or block in self.done or block in self._impure:
            return False
        first = members[0]
        if block.chain != first.chain or block.level != _level(first):
            return False
        return all(before in members for before in block.preds)

    # -- values

    def value(
        self, stack: Stack, block: Block, cond: Cond, visited: "list[Block]", goal: "Block | None" = None
    ) -> "Block | None":
        """If the branch only chooses a value, push that value and return the block where it is there; else
        None.

        Raises:
            Impure: if a value is chosen, but statements are needed on the way.
        """
        if cond.keep_yes and cond.keep_no:
            visited.extend(cond.members)
            stack.push("ordered", cond.expr, cond.reads)
            return cond.yes
        if cond.keep_yes or cond.keep_no:
            return self._short_circuit(stack, cond, visited)
        meeting = self.meeting(cond.members) or goal
        if meeting is None or meeting.height <= cond.yes.height or meeting in (cond.yes, cond.no):
            return None
        base = stack.slots
        trail = visited + cond.members
        yes = self.evaluate(cond.yes, base, meeting, trail)
        no = self.evaluate(cond.no, base, meeting, trail)
        one, other = self._grown(base, yes), self._grown(base, no)
        visited[:] = trail
        stack.push(
            "ordered", ast.IfExp(cond.expr, one.expr, other.expr), cond.reads | one.reads | other.reads
        )
        return meeting

    def _short_circuit(self, stack: Stack, cond: Cond, visited: "list[Block]") -> Block:
        kept, other = (cond.yes, cond.no) if cond.keep_yes else (cond.no, cond.yes)
        trail = visited + cond.members
        result = self._grown(stack.slots, self.evaluate(other, stack.slots, kept, trail))
        visited[:] = trail
        sign = ast.Or if cond.keep_yes else ast.And
        stack.push("ordered", join(sign, cond.expr, result.expr), cond.reads | result.reads)
        return kept

    def _grown(self, base: "list[Slot]", slots: "list[Slot]") -> Slot:
        if len(slots) != len(base) + 1 or any(one.uid != two.uid for one, two in zip(base, slots)):
            raise Impure
        stack = Stack(self.scope, slots, pure=True)
        (slot,) = stack.take(1)
        return slot

    def evaluate(
        self, block: Block, slots: "list[Slot]", goal: Block, visited: "list[Block]"
    ) -> "list[Slot]":
        """Run from ``block`` to ``goal`` by expressions alone; return the stack there.

        Raises:
            Impure: if a statement is needed, or control leaves on another way.
        """
        stack = Stack(self.scope, list(slots), pure=True)
        trail: "list[Block]" = []
        start = block
        try:
            while block is not goal:
                if loops.inlined(stack, block):
                    block = loops.comprehension(self.structure, stack, block, trail)
                    continue
                if (
                    block.kind != "plain"
                    or block in self.graph.loops
                    or block in self.done
                    or block in self._impure
                ):
                    raise Impure
                if block.chain != goal.chain or block.level != goal.level:
                    raise Impure
                trail.append(block)
                last = block.ops[-1].name if block.ops else ""
                if last in ("Branch", "BranchKeep"):
                    expressions.run(stack, block.ops[:-1])
                    cond = self.fold(block, stack)
                    after = self.value(stack, block, cond, trail, goal)
                    if after is None:
                        raise Impure
                    block = after
                else:
                    if len(block.succs) != 1:
                        raise Impure
                    expressions.run(stack, block.ops)
                    block = block.succs[0]
        except Unstructured:
            self._impure.add(start)
            raise Impure from None
        except Impure:
            self._impure.add(start)
            raise
        visited.extend(trail)
        return stack.slots

    def outer(self, one: "tuple[int, ...]", other: "tuple[int, ...]") -> bool:
        """Is everything that protects ``one`` protecting ``other`` too?"""
        return _suffix(one, other)

    def meeting(self, members: "list[Block]") -> "Block | None":
        """The first block behind ``members`` where two ways meet again, not deeper protected than they
        are."""
        graph = self.graph
        first = members[0]
        best: "Block | None" = None
        inside = set(members)
        for member in members:
            for child in graph.children[member.order]:
                if best is not None and child.order >= best.order:
                    continue
                if child in inside or child.level > _level(first) or not _suffix(child.chain, first.chain):
                    continue
                before = graph.forward(child)
                if len(before) > 1 and not all(other in inside for other in before):
                    best = child
                elif (
                    len(before) > 1
                    and all(len(other.succs) > 1 for other in before)
                    and _only_target(members, child)
                ):
                    best = child
        return best


def _level(block: Block) -> int:
    """How many exceptions are handled where ``block`` branches: a handler's first block takes one more."""
    return block.level + (block.ops[:1] != [] and block.ops[0].name == "PushExc")


def _only_target(members: "list[Block]", child: Block) -> bool:
    """Every way out of the tests leads to ``child``."""
    inside = set(members)
    return all(follower in inside or follower is child for member in members for follower in member.succs)


def _suffix(outer: "tuple[int, ...]", inner: "tuple[int, ...]") -> bool:
    return inner[len(inner) - len(outer) :] == outer if len(outer) <= len(inner) else False


def _combine_yes(cond: Cond, other: Cond) -> "Cond | None":
    """``other`` is reached if ``cond`` is true."""
    members, reads = cond.members + other.members, cond.reads | other.reads
    if other.no is cond.no and other.keep_no == cond.keep_no:
        expr = join(ast.And, cond.expr, other.expr)
        return Cond(expr, other.yes, cond.no, other.keep_yes, cond.keep_no, members, reads)
    if other.yes is cond.no and not other.keep_yes and not cond.keep_no:
        expr = join(ast.Or, negate(cond.expr), other.expr)
        return Cond(expr, cond.no, other.no, False, other.keep_no, members, reads)
    return None


def _combine_no(cond: Cond, other: Cond) -> "Cond | None":
    """``other`` is reached if ``cond`` is false."""
    members, reads = cond.members + other.members, cond.reads | other.reads
    if other.yes is cond.yes and other.keep_yes == cond.keep_yes:
        expr = join(ast.Or, cond.expr, other.expr)
        return Cond(expr, cond.yes, other.no, cond.keep_yes, other.keep_no, members, reads)
    if other.no is cond.yes and not other.keep_no and not cond.keep_yes:
        expr = join(ast.And, negate(cond.expr), other.expr)
        return Cond(expr, other.yes, cond.yes, other.keep_yes, False, members, reads)
    return None


def _combine_both(cond: Cond, yes: Cond, no: Cond) -> "Cond | None":
    """A conditional expression as a test: both arms are tests with the same pair of targets."""
    if yes.keep_yes or yes.keep_no or no.keep_yes or no.keep_no:
        return None
    members, reads = cond.members + yes.members + no.members, cond.reads | yes.reads | no.reads
    if (yes.yes, yes.no) == (no.yes, no.no):
        return Cond(ast.IfExp(cond.expr, yes.expr, no.expr), yes.yes, yes.no, False, False, members, reads)
    if (yes.yes, yes.no) == (no.no, no.yes):
        expr = ast.IfExp(cond.expr, yes.expr, negate(no.expr))
        return Cond(expr, yes.yes, yes.no, False, False, members, reads)
    return None
