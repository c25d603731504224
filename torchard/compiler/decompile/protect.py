"""Protected ranges as the source had them: clean-up code resolved, ``finally`` copies and context exits
skipped."""

import sys
from typing import Any

from torchard.compiler.decompile.ops import ENDS, Op
from torchard.compiler.decompile.slots import Unstructured

_CLEANUP = frozenset(
    {
        "Const",
        "Copy",
        "Swap",
        "Pop",
        "PopExc",
        "Store",
        "Delete",
        "StopIterationError",
        "CleanupThrow",
        "Jump",
    }
)
_MARKS = "epxsl"
JUMPS_UNCOVERED = sys.version_info >= (3, 12)  # the exception table leaves jumps out


class Protection:
    """What each exception handler is for, and which edges skip code that the compiler copied.

    ``kinds`` maps a handler's first operation to "with", "except", "group" or "finally".
    """

    def __init__(self, ops: "list[Op]", stacks: "list[Any]", *, copies: bool = True) -> None:
        self.ops = ops
        self.stacks = stacks
        self.kinds: "dict[int, str]" = {}
        self.leaders: "set[int]" = set()
        self.finals: "dict[int, Any]" = {}  # where each finally clause ends: filled in while blocks are cut
        self._chains: "dict[int, tuple[int, ...]]" = {}
        self._redirects: "dict[int, int]" = {}
        self._suppressed: "dict[int, int]" = {}
        targets = {op.handler.target for op in ops if op.handler is not None}
        for target in sorted(targets):
            self._classify(target)
        if copies:
            self._skip_names()
            self._skip_group_names()
            self._skip_exits()

    def chain(self, op: Op) -> "tuple[int, ...]":
        """The handlers that protect ``op``, innermost first, without compiler clean-up."""
        return () if op.handler is None else self._resolve(op.handler.target)

    def redirect(self, index: int) -> int:
        """Where a jump to ``index`` really leads, copies skipped."""
        seen = set()
        while index in self._redirects and index not in seen:
            seen.add(index)
            index = self._redirects[index]
        return index

    def with_handler(self, enter: int) -> int:
        handler = self.ops[enter + 1].handler
        if handler is None or self.kinds.get(handler.target) != "with":
            raise Unstructured("a context without its handler")
        return handler.target

    def suppressed(self, handler: int) -> int:
        return self._suppressed[handler]

    # -- what a handler is

    def _resolve(self, target: int) -> "tuple[int, ...]":
        known = self._chains.get(target)
        if known is None:
            self._chains[target] = ()
            outer = self.ops[target].handler
            rest = () if outer is None else self._resolve(outer.target)
            known = rest if self.kinds[target] == "cleanup" else (target, *rest)
            self._chains[target] = known
        return known

    def _classify(self, target: int) -> None:
        ops = self.ops
        if ops[target].name != "PushExc":
            if not self._is_cleanup(target):
                raise Unstructured("a handler that is neither source nor known clean-up")
            self.kinds[target] = "cleanup"
        elif ops[target + 1].name == "WithExcept":
            self.kinds[target] = "with"
            self._read_with(target)
        else:
            self.kinds[target] = self._kind_of_try(target)

    def _is_cleanup(self, index: int) -> bool:
        for _ in range(40):
            name = self.ops[index].name
            if name == "Reraise" or name == "Append" and self._collects(index):
                return True
            if name not in _CLEANUP:
                return False
            index = self.ops[index].target if name == "Jump" else index + 1
        return False

    def _collects(self, index: int) -> bool:
        """An exception of an ``except*`` clause is put with those to be raised at the end."""
        return self.ops[index].arg == 3 and self.ops[index + 1].name == "Pop"

    def _read_with(self, target: int) -> None:
        """Find the code after a ``with`` whose exception was swallowed."""
        ops, stacks = self.ops, self.stacks
        index = target + 2
        if ops[index].name == "Await":
            index += 1
        if ops[index].name != "Branch" or ops[index].arg != "true":
            raise Unstructured("an unknown form of with")
        index = ops[index].target
        base = len(stacks[target]) - 1 - stacks[target].count("l")
        while len(stacks[index]) and len(stacks[index]) >= base and stacks[index][-1] in _MARKS:
            if ops[index].name not in ("Pop", "PopExc"):
                break
            if len(stacks[index]) == base and stacks[index][-1] != "x":
                break
            index += 1
            if len(stacks[index]) < base:
                break
        self._suppressed[target] = index
        self.leaders.add(index)

    def _kind_of_try(self, target: int) -> str:
        """``finally`` never tests or drops its exception before anything else happens."""
        if self.ops[target + 1].name == "Pop":
            return "except"
        level = self.stacks[target].count("p") + 1
        seen = set()
        todo = [target + 1]
        while todo:
            index = todo.pop()
            if index in seen or self.stacks[index].count("p") < level:
                continue
            seen.add(index)
            op = self.ops[index]
            if self.stacks[index].count("p") == level:
                if op.name in ("Match", "BranchMatch"):
                    return "except"
                if op.name == "MatchGroup":
                    return "group"
            if op.target is not None:
                todo.append(op.target)
            if op.name not in ENDS:
                todo.append(index + 1)
        return "finally"

    # -- copies

    def _skip_exits(self) -> None:
        for index, op in enumerate(self.ops):
            chain = self.chain(op)
            if not chain:
                continue
            ways = [] if op.name in ENDS else [index + 1]
            if op.target is not None:
                ways.append(op.target)
            for way in ways:
                after = self.chain(self.ops[_settle(self.ops, way) if JUMPS_UNCOVERED else way])
                for handler in chain:
                    if handler not in after and self.kinds[handler] in ("with", "finally"):
                        way = self._skip(handler, way)

    def _skip_names(self) -> None:
        """``e = None; del e`` behind a clause ``except ... as e``."""
        ops = self.ops
        for index in range(len(ops) - 4):
            if ops[index].name != "PopExc":
                continue
            none, store, delete = ops[index + 1 : index + 4]
            if (
                none.name == "Const"
                and none.arg is None
                and store.name == "Store"
                and delete.name == "Delete"
            ):
                if store.arg == delete.arg:
                    self._redirects[index + 1] = index + 4
                    self.leaders.update((index + 1, index + 4))

    def _skip_group_names(self) -> None:
        """``e = None; del e`` behind a clause ``except* ... as e``: what its handler, too, begins with."""
        ops = self.ops
        for index, op in enumerate(ops):
            target = op.handler.target if op.handler is not None else -1
            if target < 0 or op.name in ENDS or self.kinds[target] != "cleanup":
                continue
            if [one.name for one in ops[target : target + 4]] != ["Const", "Store", "Delete", "Append"]:
                continue
            wanted = [(one.name, one.arg) for one in ops[target : target + 3]]
            for way in (index + 1, index + 1 if op.target is None else op.target):
                way = _settle(ops, way)
                if way != target and [(one.name, one.arg) for one in ops[way : way + 3]] == wanted:
                    self._redirects[way] = way + 3
                    self.leaders.update((way, way + 3))

    def _skip(self, handler: int, way: int) -> int:
        key = (handler, way)
        if key in self._skipped:
            return self._skipped[key]
        end = self._skip_with(way) if self.kinds[handler] == "with" else self._skip_finally(handler, way)
        self._skipped[key] = end
        if end != way:
            self._redirects[way] = end
            self.leaders.update((way, end))
        return end

    @property
    def _skipped(self) -> "dict[Any, int]":
        return self.__dict__.setdefault("_skipped_exits", {})

    def _skip_with(self, way: int) -> int:
        ops = self.ops
        while ops[way].name == "Jump":
            way = ops[way].target
        if ops[way].name == "Swap" and ops[way].arg == 2:
            way += 1
        if ops[way].name != "ExitWith":
            raise Unstructured("a context is left without its exit")
        return way + 1

    def _skip_finally(self, handler: int, way: int) -> int:
        """Walk the handler and the copy in step; return where the copy ends."""
        ends = _walk_copy(self.ops, self.stacks, handler + 1, way)
        if ends is None:
            raise Unstructured("a finally clause whose copy differs")
        if not ends:
            return way
        first = min(ends)
        if any(not same_ending(self.ops, first, end) for end in ends):
            raise Unstructured("a finally clause whose copy ends in several places")
        return first


def same_ending(ops: "list[Op]", one: int, other: int) -> bool:
    """Both lead to the same place, or return the same way."""
    for _ in range(12):
        one, other = _settle(ops, one), _settle(ops, other)
        if one == other:
            return True
        a, b = ops[one], ops[other]
        if a.name != b.name or a.arg != b.arg or a.target is not None or type(a.arg) is not type(b.arg):
            return False
        if a.name in ENDS:
            return True
        one += 1
        other += 1
    return False


def _settle(ops: "list[Op]", index: int) -> int:
    for _ in range(len(ops)):
        if ops[index].name != "Jump":
            break
        index = ops[index].target
    return index


def _walk_copy(ops: "list[Op]", stacks: "list[Any]", handler: int, copy: int) -> "set[int] | None":
    level = stacks[handler].count("p")
    height = len(stacks[handler])
    ends: "set[int]" = set()
    seen: "set[Any]" = set()
    todo = [(handler, copy)]
    while todo:
        i, j = todo.pop()
        i, j = _settle(ops, i), _settle(ops, j)
        if ops[i].name == "Reraise" and stacks[i].count("p") == level and len(stacks[i]) == height:
            ends.add(j)
            continue
        if (i, j) in seen:
            continue
        seen.add((i, j))
        one, two = ops[i], ops[j]
        if (
            one.name != two.name
            or one.name != "Const"
            and one.arg != two.arg
            or type(one.arg) is not type(two.arg)
        ):
            skipped = _skip_drop(ops, stacks, i, level)
            if skipped == i:
                if one.name == two.name == "Branch" and _inverse(one.arg, two.arg):
                    todo.append((one.target, j + 1))
                    todo.append((i + 1, two.target))
                    continue
                return None
            dropped = two.name == "Pop" and len(stacks[j]) == len(stacks[copy]) and one.name != "Pop"
            todo.append((skipped, j + 1 if dropped else j))
            continue
        if one.name == "Const" and (type(one.arg) is not type(two.arg) or repr(one.arg) != repr(two.arg)):
            return None
        if one.target is not None:
            todo.append((one.target, two.target))
        if one.name not in ENDS:
            todo.append((i + 1, j + 1))
    return ends


def _inverse(one: Any, two: Any) -> bool:
    return {one, two} in ({"true", "false"}, {"none", "not none"})


def _skip_drop(ops: "list[Op]", stacks: "list[Any]", index: int, level: int) -> int:
    """A ``finally`` that is left by return, break or continue drops its exception first."""
    if ops[index].name == "Swap" and ops[index].arg == 2 and stacks[index][-2] in "ep":
        return (
            _skip_drop(ops, stacks, index + 1, level) if ops[index + 1].name in ("Pop", "PopExc") else index
        )
    if ops[index].name == "Pop" and stacks[index][-1] == "e" and stacks[index].count("p") == level:
        return index + 1
    if ops[index].name == "PopExc" and stacks[index].count("p") == level:
        return index + 1
    return index
