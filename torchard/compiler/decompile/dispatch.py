"""The fallback that always works: a loop over basic blocks, inside real ``try`` and ``with`` statements.

``_pc`` holds the number of the block to run next, ``_s0``, ``_s1``, … what lies on the stack between blocks.
The blocks of a protected range run in a loop of their own inside a ``try``, those of its handler inside the
``except``, so that a bare ``raise``, ``sys.exc_info()`` and ``__context__`` keep their meaning.
"""

import ast
from typing import Any

from torchard.compiler.decompile.asking import assign, run
from torchard.compiler.decompile.endings import ENDINGS
from torchard.compiler.decompile.flow import clean
from torchard.compiler.decompile.made import Class
from torchard.compiler.decompile.ops import ENDS, Op
from torchard.compiler.decompile.protect import Protection
from torchard.compiler.decompile.reader import VERSION, read
from torchard.compiler.decompile.slots import NONE, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, name

_BUSY = 12  # parts in one chain of ifs before it is halved: finding a block takes as many tests
_VALUES = "ve"
Frame = tuple


def statements(scope: Any) -> "list[ast.stmt]":
    """Return the body of the scope's code as a dispatch loop.

    Raises:
        Unstructured: for class bodies, and where an operation has no form (``except*``).
    """
    if scope.is_class:
        raise Unstructured("a class body has no dispatch form")
    flow = clean(read(scope.code))
    if any(op.name == "MatchGroup" for op in flow.ops):
        raise Unstructured("`except*` has no dispatch form")
    return _Dispatch(scope, flow.ops, flow.stacks).body()


class _Dispatch:
    def __init__(self, scope: Any, ops: "list[Op]", stacks: "list[Any]") -> None:
        self.scope = scope
        self.ops = ops
        self.stacks = stacks
        self.protection = Protection(ops, stacks, copies=False)
        self.counter = scope.settings.counter_of(scope)
        self.imports: "set[str]" = set()
        self.context_code = self._context_code()
        self.starts = self._cut()
        self.number = {start: number for number, start in enumerate(self.starts)}
        self.place = {start: self._frames(start) for start in self.starts}
        self.reachable = set(self.starts)

    def body(self) -> "list[ast.stmt]":
        loop = self._region((), self.starts)
        head: "list[ast.stmt]" = [assign(self.counter, ast.Constant(self.number[0]))]
        if self.imports:
            names = [ast.alias(word, self._builtin(word)) for word in sorted(self.imports)]
            head.insert(0, ast.ImportFrom("builtins", names, 0))
        return [*head, loop]

    # -- blocks

    def _cut(self) -> "list[int]":
        starts = {0}
        before: Any = None
        for index, op in enumerate(self.ops):
            frames = self._guard(index)
            if frames != before:
                starts.add(index)
                before = frames
            if op.target is not None:
                starts.add(op.target)
            if op.target is not None or op.name in ENDS or op.name in ("EnterWith", "PopExc", "ExitWith"):
                starts.add(index + 1)
            if op.handler is not None:
                starts.add(op.handler.target)
        starts.update(self.protection.leaders)
        self.cuts = starts
        kept = [start for start in starts if start < len(self.ops) and not self._is_cleanup_code(start)]
        return sorted(start for start in kept if self.ops[start].name != "Jump" or start == 0)

    def _is_cleanup_code(self, start: int) -> bool:
        """The operations of compiler clean-up and of context handlers: Python's own statements do that
        here."""
        return (
            self.protection.kinds.get(start) == "cleanup"
            or start in self.context_code
            or "l" in self.stacks[start]
        )

    def _context_code(self) -> "set[int]":
        """The operations that hand an exception to a context manager."""
        found: "set[int]" = set()
        for target, kind in self.protection.kinds.items():
            todo = [target] if kind == "with" else []
            while todo:
                index = todo.pop()
                if index in found or index == self.protection.suppressed(target):
                    continue
                found.add(index)
                op = self.ops[index]
                if op.target is not None:
                    todo.append(op.target)
                if op.name not in ENDS:
                    todo.append(index + 1)
        return found

    def _guard(self, index: int) -> Any:
        op = self.ops[index]
        return None if op.handler is None else (op.handler.target, op.handler.depth)

    def _frames(self, start: int) -> "tuple[Frame, ...]":
        """The statements that a block stands in, outermost first: ("try", handler), ("with", …), ("catch",
        handler)."""
        stack = self.stacks[start]
        frames: "list[tuple[int, int, Frame]]" = []
        handler = self.ops[start].handler
        seen = 0
        while handler is not None and seen < 50:
            seen += 1
            kind = self.protection.kinds[handler.target]
            if kind == "cleanup":
                if self._restores(handler.target):
                    frames.append((handler.depth, 0, ("restore", handler.target)))
            else:
                where = handler.depth - (kind == "with")
                frames.append((where, 0, ("with" if kind == "with" else "try", handler.target)))
            handler = self.ops[handler.target].handler
        catches = self._catches(start)
        for position, kind in enumerate(stack):
            if kind == "p":
                frames.append((position, 1, ("catch", catches[position])))
        if self.ops[start].name == "PushExc":
            frames.append((len(stack) - 1, 1, ("catch", start)))
        frames.reverse()  # outermost first where two lie at the same height
        frames.sort(key=lambda frame: frame[:2])
        return tuple(frame[2] for frame in frames)

    def _restores(self, target: int) -> bool:
        return any(self.ops[index].name == "Store" for index in range(target, min(target + 12, len(self.ops)))
                   if self._before_reraise(target, index))  # fmt: skip

    def _before_reraise(self, start: int, index: int) -> bool:
        return all(op.name not in ENDS for op in self.ops[start:index])

    def _catches(self, start: int) -> "dict[int, int]":
        """Which handler pushed each exception on the stack: by a walk from the handlers."""
        if not hasattr(self, "_caught"):
            self._caught: "dict[int, dict[int, int]]" = {}
            for target, kind in self.protection.kinds.items():
                if kind in ("except", "finally", "group"):
                    self._mark(target)
        return self._caught.get(start, {})

    def _mark(self, target: int) -> None:
        position = len(self.stacks[target]) - 1
        todo = [target + 1]
        seen: "set[int]" = set()
        while todo:
            index = todo.pop()
            if index in seen or index >= len(self.ops):
                continue
            stack = self.stacks[index]
            if len(stack) <= position or stack[position] != "p":
                if not (len(stack) > position + 0 and stack[position] == "p"):
                    moved = [p for p, kind in enumerate(stack) if kind == "p"]
                    if stack.count("p") <= self.stacks[target].count("p") or not moved:
                        continue
            seen.add(index)
            places = [p for p, kind in enumerate(stack) if kind == "p"]
            own = self.stacks[target].count("p")
            self._caught.setdefault(index, {})[places[own]] = target
            op = self.ops[index]
            if op.target is not None:
                todo.append(op.target)
            if op.handler is not None:
                todo.append(op.handler.target)
            if op.name == "EnterWith":
                todo.append(self.protection.suppressed(self.protection.with_handler(index)))
            if op.name not in ENDS:
                todo.append(index + 1)

    # -- regions

    def _region(self, frames: "tuple[Frame, ...]", starts: "list[int]") -> ast.stmt:
        """A loop over the blocks whose place begins with ``frames``."""
        depth = len(frames)
        own = [start for start in starts if len(self.place[start]) == depth]
        inner: "dict[Frame, list[int]]" = {}
        for start in starts:
            if len(self.place[start]) > depth:
                inner.setdefault(self.place[start][depth], []).append(start)
        parts: "list[tuple[list[int], ast.stmt]]" = []
        for start in own:
            parts.append(([self.number[start]], self._if([start], _closed(self._block(start)))))
        for frame, blocks in inner.items():
            if frame[0] == "catch":
                if ("try", frame[1]) not in inner:
                    raise Unstructured("a handler without its range")
                continue
            caught = inner.get(("catch", frame[1]), [])
            statement = self._statement(frames, frame, blocks, caught)
            numbers = sorted(self.number[start] for start in blocks)
            parts.append((numbers, self._if(blocks, [*statement, ast.Continue()])))
        chain = self._chain(sorted(parts, key=lambda part: part[0]))
        return ast.While(ast.Constant(True), [*chain, ast.Break()] if depth else chain or [ast.Pass()], [])

    def _chain(self, parts: "list[tuple[list[int], ast.stmt]]") -> "list[ast.stmt]":
        """One test after the other; many are halved where the blocks of no part lie on both sides."""
        if len(parts) > _BUSY:
            middle = len(parts) // 2
            for place in sorted(range(2, len(parts) - 1), key=lambda place: abs(place - middle)):
                border = parts[place][0][0]
                if all(numbers[-1] < border for numbers, _ in parts[:place]):
                    test = ast.Compare(name(self.counter), [ast.Lt()], [ast.Constant(border)])
                    return [ast.If(test, self._chain(parts[:place]), self._chain(parts[place:]))]
        return [part for _, part in parts]

    def _if(self, starts: "list[int]", body: "list[ast.stmt]") -> ast.stmt:
        numbers = sorted(self.number[start] for start in starts)
        counter = name(self.counter)
        if len(numbers) == 1:
            test = ast.Compare(counter, [ast.Eq()], [ast.Constant(numbers[0])])
        else:
            test = ast.Compare(
                counter, [ast.In()], [ast.Tuple([ast.Constant(n) for n in numbers], ast.Load())]
            )
        return ast.If(test, body, [])

    def _statement(
        self, frames: "tuple[Frame, ...]", frame: Frame, blocks: "list[int]", caught: "list[int]"
    ) -> Any:
        inside = self._region((*frames, frame), blocks)
        kind, handler = frame
        if kind == "with":
            return self._with(handler, blocks, inside)
        if kind == "restore":
            clause = ast.ExceptHandler(
                name("BaseException"), None, [*self._restore(handler), ast.Raise(None, None)]
            )
            self.imports.add("BaseException")
            clause.type = name(self._builtin("BaseException"))
            return [ast.Try([inside], [clause], [], [])]
        self.imports.add("BaseException")
        caught_as = self.slot(len(self.stacks[handler]))
        temporary = self.free("x")
        body: "list[ast.stmt]" = [
            assign(caught_as, name(temporary)),
            assign(self.counter, ast.Constant(self.number[handler])),
            self._region((*frames, ("catch", handler)), caught),
        ]
        clause = ast.ExceptHandler(name(self._builtin("BaseException")), temporary, body)
        return [ast.Try([inside], [clause], [], [])]

    def _restore(self, target: int) -> "list[ast.stmt]":
        """``e = None; del e`` of a clause, or variables given back by a comprehension, left by an
        exception."""
        stack = Stack(self.scope, self._entry(target))
        end = next(index for index in range(target, len(self.ops)) if self.ops[index].name == "Reraise")
        run(self, stack, self.ops[target:end])
        return stack.out

    def _with(self, handler: int, blocks: "list[int]", inside: ast.stmt) -> "list[ast.stmt]":
        enter = [
            index
            for index, op in enumerate(self.ops)
            if op.name == "EnterWith" and self._enters(index) == handler
        ]
        if len(enter) != 1:
            raise Unstructured("a context entered at several places")
        position = len(self.stacks[enter[0]])  # the value lies where the exit function and it are pushed
        flag, manager = self.free(f"w{enter[0]}"), self.free(f"m{enter[0]}")
        item = ast.withitem(name(manager), name(self.slot(position), ast.Store()))
        kind = ast.AsyncWith if self.ops[enter[0]].arg else ast.With
        after = self.at(self.protection.suppressed(handler))
        return [
            assign(flag, ast.Constant(True)),
            kind([item], [inside, assign(flag, ast.Constant(False))]),
            ast.If(name(flag), [assign(self.counter, ast.Constant(after))], []),
        ]

    def _enters(self, index: int) -> int:
        return self.protection.with_handler(index)

    # -- one block

    def _block(self, start: int) -> "list[ast.stmt]":
        end = start + 1
        while end < len(self.ops) and end not in self.cuts and self.ops[end - 1].name not in ENDS:
            end += 1
        stack = Stack(self.scope, self._entry(start))
        ops = [op for op in self.ops[start:end] if op.name != "ExitWith"]
        if self.ops[start].name == "PushExc":
            ops = ops[1:]
            stack.slots.pop()
            stack.slots.extend((Slot("mark", data="p"), self._value(len(self.stacks[start]))))
        last = ops[-1] if ops else None
        if self.ops[end - 1].name == "ExitWith":
            run(self, stack, ops)
            self._drop_exit(stack)
            self.leave(stack, end)
            return stack.out
        return self._finish(stack, ops, last, end)

    def _drop_exit(self, stack: Stack) -> None:
        for place in range(len(stack.slots) - 1, -1, -1):
            if stack.slots[place].kind == "mark" and stack.slots[place].data == "x":
                del stack.slots[place]
                return

    def _entry(self, start: int) -> "list[Slot]":
        slots = []
        for position, kind in enumerate(self.stacks[start]):
            if kind in _VALUES:
                slots.append(self._value(position))
            else:
                slots.append(Slot("mark", name(self.slot(position)) if kind == "c" else None, data=kind))
        return slots

    def _value(self, position: int) -> Slot:
        title = self.slot(position)
        self.scope.quiet.add(title)
        return Slot("pure", name(title), frozenset((title,)))

    def _finish(self, stack: Stack, ops: "list[Op]", last: Any, end: int) -> "list[ast.stmt]":
        kind = last.name if last is not None else ""
        special = ENDINGS.get(kind)
        if special is not None:
            run(self, stack, ops[:-1])
            stack.line = last.line
            special(self, stack, last, end)
        elif kind in ENDS:
            run(self, stack, ops)
        else:
            run(self, stack, ops)
            self.leave(stack, end)
        return stack.out

    def at(self, index: int) -> int:
        """The number of the block that control reaches at ``index``, jumps followed: they belong to no
        range."""
        for _ in self.ops:
            if self.ops[index].name != "Jump":
                break
            index = self.ops[index].target
        if index not in self.number:
            raise Unstructured("control goes on inside a block")
        return self.number[index]

    def leave(self, stack: Stack, end: int) -> None:
        """Go to the block at ``end`` with the stack as it is."""
        self.settle(stack, 0)
        stack.append(assign(self.counter, ast.Constant(self.at(end))))

    def settle(self, stack: Stack, keep: int) -> "list[ast.expr]":
        """Put every value of the stack into its slot variable, at once; return the top ``keep`` values, not
        put."""
        stack.close_targets()
        slots = stack.slots
        for place, slot in enumerate(slots):
            if slot.kind == "iter":
                call = self._begin(slot)
                slots[place] = Slot("ordered", call, slot.reads, None, slot.uid, slot.seq)
        self._make_classes_later(stack)
        places = [place for place, slot in enumerate(slots) if slot.kind != "mark"]
        marks = [
            (place, slot) for place, slot in enumerate(slots) if slot.kind == "mark" and slot.data == "c"
        ]
        slots[:] = [slots[place] for place in places]
        exprs = [slot.expr for slot in stack.take(len(slots))]
        kept = exprs[len(exprs) - keep :] if keep else []
        targets, values = [], []
        for place, expr in zip(places, exprs[: len(exprs) - keep]):
            title = self.slot(place)
            if not (isinstance(expr, ast.Name) and expr.id == title):
                targets.append(name(title, ast.Store()))
                values.append(expr)
        if kept and targets:
            for position in range(keep):
                temporary = self.free(f"b{position}")
                targets.append(name(temporary, ast.Store()))
                values.append(kept[position])
                kept[position] = name(temporary)
        for place, slot in marks:
            if slot.expr.id != self.slot(place):
                targets.append(name(self.slot(place), ast.Store()))
                values.append(slot.expr)
        self._assign_all(stack, targets, values)
        return kept

    def _make_classes_later(self, stack: Stack) -> None:
        """A class whose bases need more than one block: a function makes it when they are there."""
        from torchard.compiler.decompile.functions import class_maker

        slots = stack.slots
        for place, (slot, after) in enumerate(zip(slots, slots[1:])):
            if slot.data != "__build_class__":
                continue
            if after.kind == "body":
                body, title = after.data, slots[place + 2].data[0]
                slots[place + 1] = Slot("const", ast.Constant(None), NONE, (None,))
            else:
                arguments: Any = after.expr
                body, title = arguments.elts[0].body, arguments.elts[1].value
            maker = self.scope.temporary()
            stack.append(class_maker(self.scope, Class(body, title, [], []), maker))
            slots[place] = Slot("pure", name(maker), frozenset((maker,)))

    def _begin(self, slot: Slot) -> ast.expr:
        if slot.data != "GetAiter":
            return ast.Call(name(self.builtin("iter")), [slot.expr], [])
        if VERSION >= (3, 10):
            return ast.Call(name(self.builtin("aiter")), [slot.expr], [])
        helper = ast.parse(f"(lambda x: {self.builtin('type')}(x).__aiter__(x))()", mode="eval").body
        helper.args = [slot.expr]  # type: ignore[attr-defined]
        return helper

    def step(self, iterator: ast.expr, *, asynchronous: bool) -> ast.expr:
        if not asynchronous:
            return ast.Call(name(self.builtin("next")), [iterator], [])
        if VERSION >= (3, 10):
            return ast.Await(ast.Call(name(self.builtin("anext")), [iterator], []))
        kind = ast.Call(name(self.builtin("type")), [iterator], [])
        return ast.Await(ast.Call(ast.Attribute(kind, "__anext__", ast.Load()), [iterator], []))

    def _assign_all(self, stack: Stack, targets: "list[Any]", values: "list[ast.expr]") -> None:
        if len(targets) == 1:
            stack.append(ast.Assign([targets[0]], values[0]))
        elif targets:
            stack.append(ast.Assign([ast.Tuple(targets, ast.Store())], ast.Tuple(values, ast.Load())))

    def position(self, op: Op) -> int:
        """Where on the stack the exception before the one being handled lies."""
        stack = self.stacks[self.ops.index(op)]
        return max(place for place, kind in enumerate(stack) if kind == "p")

    # -- names

    def slot(self, position: int) -> str:
        return self.free(f"s{position}")

    def free(self, tail: str) -> str:
        return self.scope.settings.special(tail)

    def builtin(self, word: str) -> str:
        self.imports.add(word)
        return self._builtin(word)

    def _builtin(self, word: str) -> str:
        return self.free(word)


def _closed(body: "list[ast.stmt]") -> "list[ast.stmt]":
    return body if body and isinstance(body[-1], (ast.Return, ast.Raise)) else [*body, ast.Continue()]
