"""From a graph of blocks to statements: sequences and branches (loops, contexts and handlers in their own
modules)."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions, loops, patterns, protected
from torchard.compiler.decompile.conditions import Cond, Conditions, negate
from torchard.compiler.decompile.graph import Block, Graph
from torchard.compiler.decompile.protect import Protection
from torchard.compiler.decompile.slots import Impure, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, name, same

SMALL = 12


class Context:
    """Where statements are being written: what ends the sequence, which loop, which protected region is
    open."""

    __slots__ = ("follow", "header", "region", "stop")

    def __init__(self, stop: Any = None, header: Any = None, follow: Any = None, region: Any = None) -> None:
        self.stop, self.header, self.follow, self.region = stop, header, follow, region

    def to(self, stop: "Block | None") -> "Context":
        return Context(stop, self.header, self.follow, self.region)


class Stop:
    """The sequence ran into its end."""


STOP = Stop()


class Structure:
    """Writes the statements of one graph."""

    def __init__(self, scope: Any, graph: Graph, protection: Protection) -> None:
        self.scope = scope
        self.graph = graph
        self.protection = protection
        self.conditions = Conditions(graph, scope)
        self.conditions.structure = self
        self.done = self.conditions.done
        self.attempt = scope.settings.attempt
        self._leaves: "dict[Block, frozenset[Block]]" = {}

    def statements(self) -> "list[ast.stmt]":
        """Return the whole body.

        Raises:
            Unstructured: if some part has no form that we find.
        """
        stack = Stack(self.scope, [])
        end = self.sequence(stack, self.graph.entry, Context())
        if end is not None:
            raise Unstructured("control runs past the end")
        return stack.out

    def sequence(self, stack: Stack, block: Block, ctx: Context, *, top: bool = False, skip: int = 0,
                 fresh: "Block | None" = None) -> Any:  # fmt: skip
        """Write from ``block`` on. Return None if control never comes out at the end, STOP at ``ctx.stop``,
        or the block behind the region whose own sequence (``top``) this is."""
        while True:
            if block is not fresh and not skip:
                if block is ctx.stop:
                    return STOP
                if block is ctx.header:
                    stack.append(ast.Continue())
                    return None
                if block is ctx.follow:
                    stack.append(ast.Break())
                    return None
                if ctx.region is not None and left(ctx.region, block):
                    return self._leave(stack, block, ctx, top)
                if block in self.done and not self.small(block):
                    raise Unstructured(f"code at line {_line(block)} is reached on two ways")
                if block in self.graph.loops or loops.steps(block):
                    after = loops.loop(self, stack, block, ctx)
                    if after is None:
                        return None
                    block = after
                    continue
            after = self._block(stack, block, ctx, top=top, skip=skip)
            skip = 0
            fresh = None
            if after is None or after is STOP:
                return after
            block = after

    def _block(self, stack: Stack, block: Block, ctx: Context, *, top: bool, skip: int) -> Any:
        self.done.add(block)
        if not skip:
            self.align(stack, block)
        if self.graph.matches:
            written = patterns.statement(self, stack, block, ctx, skip)
            if written is not None:
                return written[0]
        if block.kind == "try":
            return protected.try_node(self, stack, block, ctx)
        if block.kind == "with":
            expressions.run(stack, block.ops[skip:-1])
            return protected.with_block(self, stack, block, ctx)
        last = block.ops[-1] if block.ops else None
        name_ = last.name if last is not None else ""
        if name_ in ("Branch", "BranchKeep"):
            expressions.run(stack, block.ops[skip:-1])
            stack.line = last.line  # type: ignore[union-attr]
            return self._branch(stack, block, ctx, top=top)
        if name_ == "PopExc":
            expressions.run(stack, block.ops[skip:-1])
            protected.pop_exception(stack)
            return block.succs[0]
        if name_ in ("Reraise", "BranchMatch"):
            raise Unstructured("a handler of unknown form")
        expressions.run(stack, block.ops[skip:])
        if not block.succs:
            return None
        if len(block.succs) != 1:
            raise Unstructured(f"{name_} outside its idiom")
        return block.succs[0]

    def align(self, stack: Stack, block: Block) -> None:
        """Drop the exit functions of contexts that were left on the way here."""
        surplus = len(stack.slots) - block.height
        while surplus > 0:
            place = next(
                (i for i in range(len(stack.slots) - 1, -1, -1) if stack.slots[i].data == "exit"), None
            )
            if place is None:
                break
            del stack.slots[place]
            surplus -= 1
        if surplus:
            raise Unstructured(f"the stack at line {_line(block)} does not fit")

    def small(self, block: Block) -> bool:
        """Few operations that return or raise: may be written twice."""
        return block.kind == "plain" and not block.succs and len(block.ops) <= SMALL

    def _leave(self, stack: Stack, block: Block, ctx: Context, top: bool) -> Any:
        """Control goes out of the open region: only what needs no code outside it may be written inside."""
        value = any(slot.kind not in ("const", "mark", "pure") for slot in stack.slots[-1:])
        value = value or (self.trivial(block) and self._returns_value(block))
        if top and not value and not self._returns_constant(block):
            return block
        start = block
        for _ in range(8):
            if block is ctx.stop:
                return STOP
            if block is ctx.header:
                stack.append(ast.Continue())
                return None
            if block is ctx.follow:
                stack.append(ast.Break())
                return None
            if not self.trivial(block):
                break
            self.done.add(block)
            self.align(stack, block)
            putting = bool(block.ops) and block.ops[-1].name == "PopExc"
            expressions.run(stack, block.ops[:-1] if putting else block.ops)
            if putting:
                protected.pop_exception(stack)
            if not block.succs:
                return None
            block = block.succs[0]
        if top and block is start:
            stack.freeze()
            return block
        raise Unstructured("code outside a protected range inside a branch of it")

    def _returns_value(self, block: Block) -> bool:
        """Returns what already lies on the stack."""
        names = [op.name for op in block.ops]
        return names[-1:] == ["Return"] and names[-2:-1] != ["Const"]

    def _returns_constant(self, block: Block) -> bool:
        return [op.name for op in block.ops] == ["Const", "Return"] and block.ops[0].arg is not None

    def trivial(self, block: Block) -> bool:
        """Drops of iterators and returns of what is already computed."""
        names = [op.name for op in block.ops]
        if block.kind != "plain":
            return False
        while names and names[0] in ("Pop", "Swap", "PopExc"):
            names.pop(0)
        return names in ([], ["Return"], ["Const", "Return"]) and (bool(names) or len(block.succs) == 1)

    # -- branches

    def _branch(self, stack: Stack, block: Block, ctx: Context, *, top: bool) -> Any:
        slots = list(stack.slots)
        if stack.slots and stack.slots[-1].kind in ("pending", "fmt", "function", "aug", "class"):
            value = stack.take(1)
            stack.slots.extend(value)
            slots = list(stack.slots)
        visited: "list[Block]" = []
        cond = self.conditions.fold(block, stack)
        try:
            after = self.conditions.value(stack, block, cond, visited, ctx.stop)
        except Impure:
            after = None
            if cond.keep_yes or cond.keep_no:
                self.done.update(cond.members)
                return self._kept(stack, cond, ctx)
        if after is not None:
            self.done.update(visited)
            return after
        if len(slots) - 1 != len(stack.slots) and not any(slot.kind == "mid" for slot in slots):
            raise Unstructured("a test that changes the stack")
        self.done.update(cond.members)
        return self._statement(stack, block, cond, ctx, top=top)

    def _kept(self, stack: Stack, cond: Cond, ctx: Context) -> Any:
        """``a and b`` as a value where ``b`` needs statements: through a temporary."""
        stack.flush()
        temporary = self.scope.temporary()
        self._mutable(temporary)
        stack.append(ast.Assign([name(temporary, ast.Store())], cond.expr))
        kept, other = (cond.yes, cond.no) if cond.keep_yes else (cond.no, cond.yes)
        arm = Stack(self.scope, list(stack.slots))
        end = self.sequence(arm, other, ctx.to(kept))
        if end is STOP:
            (value,) = arm.take(1)
            arm.append(ast.Assign([name(temporary, ast.Store())], value.expr))
        test: ast.expr = name(temporary)
        stack.append(ast.If(negate(test) if cond.keep_yes else test, arm.out, []))
        stack.slots.append(Slot("pure", name(temporary), frozenset((temporary,))))
        return kept

    def _mutable(self, temporary: str) -> None:
        self.scope.frozen.add(temporary)

    def _statement(self, stack: Stack, block: Block, cond: Cond, ctx: Context, *, top: bool) -> Any:
        stack.close_targets()
        stack.flush()
        if cond.yes is cond.no:
            stack.append(_if(cond.expr, [], []))
            return cond.yes
        meeting = self.conditions.meeting(cond.members)
        if meeting is not None and meeting is not ctx.header and meeting is not ctx.follow:
            self._both(stack, cond, ctx.to(meeting))
            return meeting
        yes, no = cond.yes, cond.no
        if top and ctx.region is not None and ctx.header is ctx.stop and ctx.header in (yes, no):
            return self._one(stack, cond, ctx, first=ctx.header)
        falls = self._falls(yes, block, ctx), self._falls(no, block, ctx)
        if falls == (True, True):
            return STOP if self._both(stack, cond, ctx) else None
        if falls == (False, False):
            first = self._inner(yes, no, ctx)
        else:
            first = no if falls[0] else yes
        return self._one(stack, cond, ctx, first=first)

    def _inner(self, yes: Block, no: Block, ctx: Context) -> Block:
        """Neither arm comes out at the end: which one stands inside the ``if``?"""
        if ctx.region is not None:
            crossing = self._crosses(yes, ctx), self._crosses(no, ctx)
            if crossing[0] != crossing[1]:
                return no if crossing[0] else yes
        return yes if yes.start <= no.start else no

    def _one(self, stack: Stack, cond: Cond, ctx: Context, *, first: Block) -> Any:
        """``if`` without ``else``: the arm never comes out, the other way goes on behind it."""
        arm = Stack(self.scope, list(stack.slots))
        forced = first is ctx.header and first is ctx.stop
        if forced:
            arm.append(ast.Continue())
        elif self.sequence(arm, first, ctx) is not None:
            raise Unstructured("an arm comes out where it should not")
        other = cond.no if first is cond.yes else cond.yes
        test = cond.expr if first is cond.yes else negate(cond.expr)
        stack.append(_if(test, arm.out, []))
        return other

    def _both(self, stack: Stack, cond: Cond, ctx: Context) -> bool:
        """``if`` and ``else`` up to ``ctx.stop``; return whether any arm gets there."""
        arms = []
        for start in (cond.yes, cond.no):
            arm = Stack(self.scope, list(stack.slots))
            end = self.sequence(arm, start, ctx)
            arms.append((arm, end is STOP))
        self._merge(stack, arms)
        (yes, _), (no, _) = arms
        test, then, other = cond.expr, yes.out, no.out
        if (not then and other) or (then and other and cond.no.start < cond.yes.start):
            test, then, other = negate(test), other, then
        stack.append(_if(test, then, other))
        return arms[0][1] or arms[1][1]

    def _merge(self, stack: Stack, arms: "list[Any]") -> None:
        """Make both arms leave the same stack, by temporaries where they differ."""
        ending = [arm for arm, falls in arms if falls]
        if not ending:
            return
        if len(ending) == 1:
            stack.slots[:] = ending[0].slots
            return
        one, two = ending
        if len(one.slots) != len(two.slots):
            raise Unstructured("two ways meet with different stacks")
        equal = 0
        while equal < len(one.slots) and _equal_slots(one.slots[equal], two.slots[equal]):
            equal += 1
        count = len(one.slots) - equal
        names = [self.scope.temporary() for _ in range(count)]
        for arm in ending:
            for target, value in zip(names, arm.take(count)):
                arm.append(ast.Assign([name(target, ast.Store())], value.expr))
        stack.slots[:] = one.slots[:equal]
        for target in names:
            stack.push("pure", name(target), frozenset((target,)))

    # -- where arms lead

    def _falls(self, arm: Block, block: Block, ctx: Context) -> bool:
        """Can control come out of ``arm`` at the end of the sequence?"""
        if arm is ctx.stop:
            return True
        if arm is ctx.header or arm is ctx.follow:
            return False
        if not self.graph.dominates(block, arm):
            return not self.small(arm)
        ends = self.leaves(arm)
        if ctx.stop is not None and ctx.stop in ends:
            return True
        return any(end is not ctx.header and end is not ctx.follow and not self.small(end) for end in ends)

    def leaves(self, block: Block) -> "frozenset[Block]":
        """Blocks outside what ``block`` dominates that are reached from inside."""
        known = self._leaves.get(block)
        if known is None:
            for one in reversed(self.graph.subtree(block)):
                if one in self._leaves:
                    continue
                found = set(one.succs)
                for child in self.graph.children[one.order]:
                    found |= self._leaves[child]
                self._leaves[one] = frozenset(
                    end for end in found if end is one or not self.graph.dominates(one, end)
                )
            known = self._leaves[block]
        return frozenset(end for end in known if end is not block)

    def _crosses(self, arm: Block, ctx: Context) -> bool:
        return any(left(ctx.region, one) and not self.trivial(one) for one in self.graph.subtree(arm))


def left(region: Any, block: Block) -> bool:
    """Is ``block`` outside the protected range or clause?"""
    kind, mark = region
    return mark not in block.chain if kind == "body" else block.level < mark


def _equal_slots(one: Slot, two: Slot) -> bool:
    if one.uid == two.uid:
        return True
    if one.kind != two.kind:
        return False
    if one.kind == "mark":
        return one.data == two.data
    return one.kind in ("const", "pure") and same(one.expr, two.expr) and isinstance(one.expr, ast.Name)


def _if(test: ast.expr, then: "list[ast.stmt]", other: "list[ast.stmt]") -> ast.stmt:
    """An ``if``, or the ``assert`` it was."""
    only = then[0] if len(then) == 1 and not other else None
    if isinstance(only, ast.Assert) and isinstance(only.test, ast.Constant) and only.test.value is False:
        return ast.Assert(negate(test), only.msg)
    return ast.If(test, then or [ast.Pass()], other)


def _line(block: Block) -> Any:
    return next((op.line for op in block.ops if op.line is not None), "?")
