"""``match`` statements: following each case's tests on the way where they succeed spells its pattern."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions
from torchard.compiler.decompile.graph import Block
from torchard.compiler.decompile.parts import Part, pattern
from torchard.compiler.decompile.slots import Impure, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack


class Case:
    """A pattern, its guard, the place where its statements begin, and where it leads if it fails."""

    def __init__(self, root: Part, guard: Any, body: "tuple[Block, int]", failed: "Block | None") -> None:
        self.root, self.guard, self.body, self.failed = root, guard, body, failed


def statement(s: Any, stack: Stack, block: Block, ctx: Any, skip: int) -> Any:
    """Write the ``match`` that begins in ``block``; return (where it goes on,), or None for no match."""
    for place in _beginnings(block, skip):
        probe = Stack(s.scope, list(stack.slots))
        try:
            expressions.run(probe, block.ops[skip:place])
            found = _Cases(s, probe.slots, block, place)
        except (Unstructured, Impure, IndexError, AttributeError):
            continue
        expressions.run(stack, block.ops[skip:place])
        stack.line = block.ops[place].line
        (subject,) = stack.take(1)
        stack.close_targets()
        stack.freeze()
        return (_write(s, stack, subject.expr, found, ctx),)
    return None


def _beginnings(block: Block, skip: int) -> "list[int]":
    """Places where the subject may lie on the stack: before a copy of it, or before a first question."""
    names = [op.name for op in block.ops]
    copies = [i for i in range(skip, len(names)) if names[i] == "Copy" and block.ops[i].arg == 1]
    asked = [i for i in range(skip, len(names)) if names[i] in ("MatchSeq", "MatchMap")]
    classes = [i for i in range(skip, len(names)) if names[i] == "Load" and _asks_class(names[i : i + 9])]
    return [i for i in copies if i == 0 or names[i - 1] != "Copy"] + asked[:1] + classes


def _asks_class(names: "list[str]") -> bool:
    return any(name.startswith("MatchClass") for name in names)


def _write(s: Any, stack: Stack, subject: ast.expr, found: "_Cases", ctx: Any) -> Any:
    from torchard.compiler.decompile.structure import STOP

    s.done.update(found.members)
    meeting = _meeting(s, found, ctx)
    inner = ctx.to(meeting) if meeting is not None else ctx
    nodes, falls = [], False
    for case in found.cases:
        arm = Stack(s.scope, list(stack.slots))
        falls |= s.sequence(arm, case.body[0], inner, skip=case.body[1]) is STOP
        nodes.append(ast.match_case(pattern(case.root), case.guard, arm.out or [ast.Pass()]))
    stack.append(ast.Match(subject, nodes))
    last = found.cases[-1].failed
    if meeting is not None:
        if last is not None and last is not meeting:
            arm = Stack(s.scope, list(stack.slots))
            s.sequence(arm, last, inner)
            nodes.append(ast.match_case(ast.MatchAs(None, None), None, arm.out or [ast.Pass()]))
        return meeting
    if last is None:
        return STOP if falls else None
    if falls and last is not ctx.stop:
        raise Unstructured("a match that goes on at two places")
    return last


def _meeting(s: Any, found: "_Cases", ctx: Any) -> "Block | None":
    """The first block behind the patterns where two of the cases meet again."""
    first, tests = found.members[0], set(found.members)
    behind = [child for one in found.members for child in s.graph.children[one.order] if child not in tests]
    met = [
        child
        for child in behind
        if len(s.graph.forward(child)) > 1
        and child not in (ctx.header, ctx.follow)
        and child.level <= first.level
        and s.conditions.outer(child.chain, first.chain)
    ]
    return min(met, key=lambda child: child.order, default=None)


class _Cases:
    """Reads all cases of one ``match``. ``members`` are the blocks of patterns and guards."""

    def __init__(self, s: Any, slots: "list[Slot]", block: Block, place: int) -> None:
        if not slots:
            raise Unstructured("nothing to match")
        self.s = s
        self.base = len(slots) - 1
        self.held = [Slot("mark", data="held") for _ in slots[: self.base]]
        self.members: "list[Block]" = []
        self.asked = False
        self.cases: "list[Case]" = []
        start: "tuple[Block, int] | None" = (block, place)
        while start is not None:
            case, copied = _Walk(self).case(*start)
            self.cases.append(case)
            start = (case.failed, 0) if copied and case.failed is not None else None
        if not self.asked:
            raise Unstructured("no pattern that only `match` can say")

    def visit(self, block: Block) -> None:
        if block not in self.members:
            self.members.append(block)

    def after_drops(self, block: Block, height: int) -> Block:
        """Where a failed test leads once the parts of the subject are dropped."""
        while block.height > height:
            if [op.name for op in block.ops] != ["Pop"] or len(block.succs) != 1:
                raise Unstructured("a pattern that fails in an unknown way")
            self.visit(block)
            block = block.succs[0]
        if block.height != height:
            raise Unstructured("a pattern that fails in an unknown way")
        return block


class _Walk:
    """Follows the tests of one case on a stack whose values are parts of the subject."""

    def __init__(self, cases: _Cases) -> None:
        self.cases = cases
        self.fails: "list[Block]" = []
        self.copies: "list[Any]" = []  # (slots before, block, place, failures so far) of each copy of a part
        self.copied = False

    def case(self, block: Block, place: int) -> "tuple[Case, bool]":
        """Read one case; tell, too, whether another may follow (its subject was kept)."""
        root = Part()
        stack = Stack(self.cases.s.scope, [*self.cases.held, Slot("mark", data=root)], pure=True)
        first = block.ops[place]
        self.copied = first.name == "Copy" and first.arg == 1
        block, place = self._follow(stack, block, place, None)
        height = self.cases.base + self.copied
        ends = {self.cases.after_drops(one, height) for one in self.fails}
        if len(ends) > 1:
            raise Unstructured("a pattern that fails at two places")
        failed = ends.pop() if ends else None
        guard = None
        if self.copied:
            guard, block, place, failed = self._guard(stack, block, place, failed)
        return Case(root, guard, (block, place), failed), self.copied

    def _guard(self, stack: Stack, block: Block, place: int, failed: "Block | None") -> Any:
        """Read the guard, if there is one, up to where the subject is dropped."""
        s, guard = self.cases.s, None
        while place == len(block.ops) and len(block.succs) == 1:
            block, place = block.succs[0], 0
        if block.ops[place].name != "Pop":
            expressions.run(stack, block.ops[place:-1])
            cond = s.conditions.fold(block, stack)
            for member in cond.members:
                self.cases.visit(member)
            inside, outside = (cond.no, cond.yes) if cond.yes is failed else (cond.yes, cond.no)
            if cond.keep_yes or cond.keep_no or failed not in (None, outside):
                raise Unstructured("a guard of unknown form")
            expr = cond.expr
            if inside is cond.no:
                from torchard.compiler.decompile.conditions import negate

                expr = negate(expr)
            guard, block, place, failed = expr, inside, 0, outside
        if block.ops[place].name != "Pop":
            raise Unstructured("a case that keeps its subject")
        return guard, block, place + 1, failed

    def _follow(self, stack: Stack, block: Block, place: int, join: "Block | None") -> "tuple[Block, int]":
        """Run tests until the pattern is complete, or up to ``join``; return the place behind."""
        begun = False
        while True:
            if begun and join is None and self._complete(stack, block, place):
                return block, place
            if not begun or place:
                self.cases.visit(block)
            if place == len(block.ops) or block.ops[place].name == "Branch":
                block = self._leave(stack, block, place)
                place = 0
                if block is join:
                    return block, 0
                if len(block.preds) > 1 and not (join is None and len(stack.slots) == self.cases.base):
                    self._alternatives(stack, block)
            else:
                self.cases.visit(block)
                place += self._run(stack, block, place)
            begun = True

    def _complete(self, stack: Stack, block: Block, place: int) -> bool:
        height = len(stack.slots) - self.cases.base
        if height == 0:
            return True
        continues = place < len(block.ops) and block.ops[place].name == "Store"
        if height == 1 and self.copied and continues:
            self.copied = False  # the copy was for `as`: this is the last case
        joins = place == len(block.ops) and len(block.succs[0].preds) > 1  # one of several alternatives
        return height == 1 and self.copied and not joins

    def _leave(self, stack: Stack, block: Block, place: int) -> Block:
        """Go where the test at the end of the block succeeds."""
        if place == len(block.ops):
            if len(block.succs) != 1 or block.kind != "plain":
                raise Unstructured("a pattern of unknown form")
            return block.succs[0]
        test = block.ops[place].arg
        asked = stack.slots.pop().data
        if isinstance(asked, Part):  # `case None`
            asked.become("single", None)
            wanted = "none"
        else:
            wanted = {"test": "true", "found": "not none"}[asked]
        follow, jump = block.succs
        success, fail = (jump, follow) if test == wanted else (follow, jump)
        self.fails.append(fail)
        return success

    def _alternatives(self, stack: Stack, join: Block) -> None:
        """``a | b``: ways from one copy of a value that meet in ``join``; each is walked with its own."""
        start = self._start_of_alternatives()
        slots, block, place, count = start
        if len(slots) == self.cases.base + 1 and self.copies.index(start) == 0:
            self.copied = False  # the copy was for the alternatives: this is the last case
        whole: Part = slots[-1].data
        whole.reset()
        del self.fails[count:]
        del self.copies[self.copies.index(start) :]
        ways: "list[list[Slot]]" = []
        roots: "list[Part]" = []
        while block.ops[place:] and block.ops[place].name == "Copy":
            roots.append(Part())
            way = Stack(self.cases.s.scope, [*slots[:-1], Slot("mark", data=roots[-1])], pure=True)
            walk = _Walk(self.cases)
            walk._follow(way, block, place, join)
            ways.append(way.slots)
            ends = {self.cases.after_drops(one, len(slots)) for one in walk.fails}
            if len(ends) != 1:
                raise Unstructured("alternatives of unknown form")
            block, place = ends.pop(), 0
        self.fails.append(block)  # no alternative took it
        whole.become("or", roots)
        stack.slots[:] = [_joined(column, whole, roots) for column in zip(*ways)]

    def _start_of_alternatives(self) -> Any:
        """The copy that lies as high as the one where the last failed test leads to."""
        if not self.fails:
            raise Unstructured("a pattern of unknown form")
        block = self.fails[-1]
        while [op.name for op in block.ops] == ["Pop"] and len(block.succs) == 1:
            block = block.succs[0]
        for copy in reversed(self.copies):
            if len(copy[0]) == block.height and block.ops[:1] and block.ops[0].name == "Copy":
                return copy
        raise Unstructured("a pattern of unknown form")

    def _run(self, stack: Stack, block: Block, place: int) -> int:
        """Run one operation; return how many it was (the copy of a mapping's rest is a dozen)."""
        op, slots = block.ops[place], stack.slots
        top = slots[-1].data if slots else None
        if op.name == "Copy" and op.arg == 1 and isinstance(top, Part):
            self.copies.append((list(slots), block, place, len(self.fails)))
        handler = _QUESTIONS.get(op.name)
        if handler is not None and handler(self, stack, op):
            return 1
        if op.name == "Build" and op.arg == ("map", 0):
            return self._rest(stack, block, place)
        expressions.run(stack, [op])
        return 1

    def _rest(self, stack: Stack, block: Block, place: int) -> int:
        """``**rest``: a new dict, filled with the subject, without the keys (3.11 and later)."""
        part, keys = stack.slots[-2].data, stack.slots[-1]
        count = len(part.children)
        names = [op.name for op in block.ops[place : place + 4 + 3 * count]]
        if names != ["Build", "Swap", "UpdateDict", "Unpack", *["Copy", "Swap", "DeleteSubscr"] * count]:
            raise Unstructured("a pattern of unknown form")
        assert keys is stack.slots.pop()
        part.rest = Part()
        stack.slots[-1] = Slot("mark", data=part.rest)
        return len(names)


def _joined(column: "tuple[Slot, ...]", whole: Part, roots: "list[Part]") -> Slot:
    data = [slot.data for slot in column]
    if data == roots:
        return Slot("mark", data=whole)
    if all(one is data[0] for one in data):
        return column[0]
    if not all(isinstance(one, Part) for one in data):
        raise Unstructured("alternatives that leave different values")
    return Slot("mark", data=Part(mirrors=tuple(data)))


# -- what is asked


def _kind(kind: str) -> Any:
    def ask(walk: _Walk, stack: Stack, op: Any) -> bool:
        stack.slots[-1].data.become(kind)
        stack.push("mark", data="test")
        walk.cases.asked = True
        return True

    return ask


def _length(walk: _Walk, stack: Stack, op: Any) -> bool:
    stack.push("mark", data=("length", stack.slots[-1].data))
    return True


def _compared(walk: _Walk, stack: Stack, op: Any) -> bool:
    left = stack.slots[-2].data if len(stack.slots) > 1 else None
    if isinstance(left, tuple) and left[:1] == ("length",):
        count = stack.slots.pop()
        left[1].least, left[1].exact = count.data[0], op.arg == "=="
    elif isinstance(left, Part):
        (value,) = stack.take(1)
        left.become("value" if op.arg == "==" else "single", value.expr)
    else:
        return False
    stack.slots[-1] = Slot("mark", data="test")
    return True


def _class(walk: _Walk, stack: Stack, op: Any) -> bool:
    names = stack.slots.pop()
    (kind,) = stack.take(1)
    part = stack.slots.pop().data
    part.become("class", (kind.expr, op.arg, names.data[0]))
    part.children = [Part() for _ in range(op.arg + len(names.data[0]))]
    _found(walk, stack, part, flag=op.name.endswith("Flag"))
    return True


def _keys(walk: _Walk, stack: Stack, op: Any) -> bool:
    keys, part = stack.slots[-1], stack.slots[-2].data
    if keys.kind == "const":
        exprs = [walk.cases.s.scope.literal(key) for key in keys.data[0]]
    else:
        exprs = list(keys.expr.elts)
    stack.slots[-1] = Slot("mark", data="keys")
    part.become("mapping", exprs)
    part.children = [Part() for _ in exprs]
    _found(walk, stack, part, flag=op.name.endswith("Flag"))
    return True


def _found(walk: _Walk, stack: Stack, part: Part, *, flag: bool) -> None:
    """The parts found, or None; up to 3.10 a flag beside them."""
    walk.cases.asked = True
    stack.push("mark", data=("tuple" if flag else "parts", part))
    if flag:
        stack.push("mark", data="test")


def _copy(walk: _Walk, stack: Stack, op: Any) -> bool:
    """The parts found are copied only to be compared with None."""
    top = stack.slots[-1].data if stack.slots else None
    if op.arg != 1 or not isinstance(top, tuple) or top[0] != "parts":
        return False
    stack.push("mark", data="found")
    return True


def _unpack(walk: _Walk, stack: Stack, op: Any) -> bool:
    data = stack.slots.pop().data
    part: Part = data[1] if isinstance(data, tuple) else data
    if op.name == "UnpackEx":
        before, after = op.arg
        part.children, part.star = [Part() for _ in range(before + after + 1)], before
    elif isinstance(data, Part):
        part.children = [Part() for _ in range(op.arg)]
    for child in reversed(part.children):
        stack.push("mark", data=child)
    return True


def _minus(walk: _Walk, stack: Stack, op: Any) -> bool:
    left = stack.slots[-2].data if len(stack.slots) > 1 else None
    if op.arg != "-" or not isinstance(left, tuple) or left[:1] != ("length",):
        return False
    count = stack.slots.pop()
    stack.slots[-1] = Slot("mark", data=("from the end", count.data[0]))
    return True


def _element(walk: _Walk, stack: Stack, op: Any) -> bool:
    """One element of a sequence whose starred part is not kept; up to 3.10, one of the parts found."""
    part = stack.slots[-2].data if len(stack.slots) > 1 else None
    if isinstance(part, tuple) and part[0] == "tuple":
        index = stack.slots.pop()
        stack.slots[-1] = Slot("mark", data=part[1].children[index.data[0]])
        return True
    if not isinstance(part, Part):
        return False
    index = stack.slots.pop()
    place = -index.data[1] if index.kind == "mark" else index.data[0]
    stack.slots[-1] = Slot("mark", data=part.places.setdefault(place, Part()))
    return True


def _without_keys(walk: _Walk, stack: Stack, op: Any) -> bool:
    """``**rest`` up to 3.10."""
    part = stack.slots[-2].data
    part.rest = Part()
    stack.slots[-1] = Slot("mark", data=part.rest)
    return True


def _store(walk: _Walk, stack: Stack, op: Any) -> bool:
    part = stack.slots.pop().data
    if not isinstance(part, Part):
        raise Unstructured("a pattern that stores something else")
    walk.cases.s.scope.note_store(*op.arg)
    part.name(op.arg[1])
    return True


_QUESTIONS: "dict[str, Any]" = {
    "MatchSeq": _kind("sequence"), "MatchMap": _kind("mapping"), "MatchClass": _class,
    "MatchClassFlag": _class, "MatchKeys": _keys, "MatchKeysFlag": _keys, "GetLen": _length,
    "Compare": _compared, "Copy": _copy, "Unpack": _unpack, "UnpackEx": _unpack, "Binary": _minus,
    "Subscr": _element, "Store": _store, "CopyWithoutKeys": _without_keys,
}  # fmt: skip
