"""Two programs run in step on symbolic values: success proves them equal up to temporaries and the order of
moves."""

from typing import Any

from torchard.compiler.decompile.ops import EFFECTS, ENDS, Op
from torchard.compiler.decompile.verify.walk import NEGATED, branch, settle

_UNBOUND = ("unbound",)
_PEEKS = {  # operations that look below what they pop, at these places counted from the top after popping
    "ForIter": (1,), "AsyncForIter": (1,), "ImportFrom": (1,), "GetLen": (1,), "MatchSeq": (1,),
    "MatchMap": (1,),
    "MatchKeys": (1, 2), "Match": (1,), "WithExcept": (1, 4), "CopyWithoutKeys": (1,),
}  # fmt: skip
_INTO = {
    "Append": "append", "AddSet": "add", "AddMap": "__setitem__", "Extend": "extend", "UpdateSet": "update",
    "UpdateDict": "update", "MergeDict": "",
}  # fmt: skip
_GROWING = frozenset(_INTO.values()) - {""}
_MAPS = {"Build", "ConstKeyMap"}
_DISPLAYS = ("list", "set", "map")
_BUDGET = 60_000


class _Differ(Exception):
    pass


def difference(a: "list[Op]", b: "list[Op]", keys: Any, *, counter: "str | None" = None) -> "str | None":
    """Return None if both do the same effects in the same order on equal values, else the first difference.

    Moves (loads and stores of fast locals, copies, swaps, constants) are run on symbols. A state says which
    slots of both sides hold equal values; states of one pair of points are intersected until none changes.
    ``counter`` names a local of ``b`` whose constant value tells points apart (a dispatch loop's block
    number). Reads of unbound locals are compared only where they are certain.
    """
    try:
        _Lockstep(a, b, keys, counter).run()
    except _Differ as reason:
        return str(reason)
    return None


class _Side:
    """One program's stack and fast locals; values are symbols."""

    __slots__ = ("index", "keys", "local", "ops", "stack")

    def __init__(
        self, ops: "list[Op]", index: int, stack: "list[Any]", local: "dict[str, Any]", keys: Any
    ) -> None:
        self.ops, self.index, self.stack, self.local, self.keys = ops, index, stack, local, keys

    def settle(self) -> Op:
        """Run moves; stop at the next effect and return it."""
        for _ in range(4 * len(self.ops) + 8):
            self.index = settle(self.ops, self.index)
            op = self.ops[self.index]
            if not self.move(op):
                return op
        raise _Differ("an endless loop without effects")

    def move(self, op: Op) -> bool:
        name, stack = op.name, self.stack
        if name == "Const":
            stack.append(("const", self.keys(op.arg)))
        elif name == "Load" and op.arg[0] == "fast":
            value = self.local.get(op.arg[1], _UNBOUND)
            if value == _UNBOUND:
                return False
            stack.append(value)
        elif name == "Load" and op.arg[0] == "closure":
            stack.append(("cell", op.arg[1]))
        elif name == "Store" and op.arg[0] == "fast":
            self.local[op.arg[1]] = stack.pop()
        elif name == "Delete" and op.arg[0] == "fast" and self.local.get(op.arg[1], _UNBOUND) != _UNBOUND:
            self.local[op.arg[1]] = _UNBOUND
        elif name == "LoadClear":
            stack.append(self.local.get(op.arg[1], _UNBOUND))
            self.local[op.arg[1]] = _UNBOUND
        elif name == "Copy":
            stack.append(stack[-op.arg])
        elif name == "Swap":
            stack[-op.arg], stack[-1] = stack[-1], stack[-op.arg]
        elif name == "Permute":
            top = stack[-len(op.arg) :]
            stack[-len(op.arg) :] = [top[place] for place in op.arg]
        elif name == "Pop":
            stack.pop()
        elif name == "Attr" and op.arg in _GROWING and stack[-1][0] == "display":
            stack[-1] = (
                "method",
                op.arg,
                stack[-1],
            )  # a display is an exact list, set or dict: no user code runs
        else:
            return self.decide(op)
        self.index += 1
        return True

    def decide(self, op: Op) -> bool:
        """Comparisons of known integers and tests of known values are moves too."""
        stack = self.stack
        if op.name == "Compare" and op.arg in ("==", "<", "in") and _known(stack[-1]) and _known(stack[-2]):
            right, left = stack.pop()[1], stack.pop()[1]
            answer = _answer(op.arg, left, right)
            if answer is None:
                stack.extend((("const", left), ("const", right)))
                return False
            stack.append(("const", ("bool", answer)))
            self.index += 1
            return True
        if op.name == "Branch" and stack[-1][0] == "const":
            truth = _truth(op.arg, stack[-1][1])
            if truth is None:
                return False
            stack.pop()
            self.index = op.target if truth else self.index + 1
            return True
        return False


def _known(value: Any) -> bool:
    return value[0] == "const" and value[1][0] in ("int", "tuple")


def _answer(sign: str, left: Any, right: Any) -> "bool | None":
    if left[0] != "int":
        return None
    if sign == "in":
        return (
            left in right[1] if right[0] == "tuple" and all(item[0] == "int" for item in right[1]) else None
        )
    if right[0] != "int":
        return None
    return left[1] == right[1] if sign == "==" else left[1] < right[1]


def _truth(test: str, key: Any) -> "bool | None":
    if test in ("none", "not none"):
        return (key == ("NoneType", None)) == (test == "none")
    if key[0] not in ("int", "bool", "str", "NoneType", "bytes"):
        return None
    return bool(key[1]) == (test == "true")


class _Lockstep:
    def __init__(self, a: "list[Op]", b: "list[Op]", keys: Any, counter: "str | None") -> None:
        self.a, self.b, self.keys, self.counter = a, b, keys, counter
        self.names = sorted(
            {
                op.arg[1]
                for op in a + b
                if op.name in ("Load", "Store", "Delete", "LoadClear") and op.arg[0] == "fast"
            }
        )
        self.states: dict = {}
        self.todo: list = []

    def run(self) -> None:
        start: "dict[str, Any]" = {name: ("start", name) for name in self.names}
        temporaries = self._stored_first()
        for name in temporaries:
            start[name] = _UNBOUND
        self.arrive((0, [], dict(start)), (0, [], dict(start)))
        steps = 0
        while self.todo:
            steps += 1
            if steps * (len(self.names) + 4) > 40 * _BUDGET:
                raise _Differ("the symbolic run was given up: too many states")
            key = self.todo.pop()
            self.step(*self.restore(key))

    def _stored_first(self) -> "list[str]":
        """Locals that are not parameters: both sides know the parameters by the ``parameters`` attribute of
        keys."""
        parameters = getattr(self.keys, "parameters", ())
        return [name for name in self.names if name not in parameters]

    def arrive(self, one: "tuple[int, list, dict]", two: "tuple[int, list, dict]") -> None:
        left = _Side(self.a, one[0], list(one[1]), dict(one[2]), self.keys)
        right = _Side(self.b, two[0], list(two[1]), dict(two[2]), self.keys)
        left.settle()
        right.settle()
        count = right.local.get(self.counter) if self.counter else None
        key = (left.index, right.index, count if count is not None and count[0] == "const" else None)
        values = (
            left.stack
            + [left.local[n] for n in self.names]
            + right.stack
            + [right.local[n] for n in self.names]
        )
        shape = (len(left.stack), len(right.stack))
        known = self.states.get(key)
        if known is None:
            self.states[key] = (shape, _canonical(values))
            self.todo.append(key)
            return
        if known[0] != shape:
            raise _Differ(f"operation {left.index}: the stacks do not correspond")
        met = _canonical(list(zip(known[1], values)), paired=True)
        if met != known[1]:
            self.states[key] = (shape, met)
            self.todo.append(key)

    def restore(self, key: Any) -> "tuple[_Side, _Side]":
        (height, other), values = self.states[key]
        count = len(self.names)
        middle = height + count
        left = dict(zip(self.names, values[height:middle]))
        right = dict(zip(self.names, values[middle + other :]))
        return (
            _Side(self.a, key[0], list(values[:height]), left, self.keys),
            _Side(self.b, key[1], list(values[middle : middle + other]), right, self.keys),
        )

    def step(self, left: _Side, right: _Side) -> None:
        one, two = left.ops[left.index], right.ops[right.index]
        if one.name in ("Branch", "BranchKeep") and two.name in ("Branch", "BranchKeep"):
            self.step_branch(left, right, swapped=False)
            return
        if one.name in _INTO and two.name == "Attr" and two.arg == _INTO[one.name]:
            # the operation asks for an exact list, set or dict: so the same value on the other side is one
            container = left.stack[-EFFECTS[one.name](one.arg)[0] - one.arg]
            if container == right.stack[-1]:
                right.stack[-1] = ("method", two.arg, container)
                right.index += 1
                self._go(left, right)
                return
        if one.name in _INTO or two.name in _INTO or self._grows(left, one) or self._grows(right, two):
            self._grow(left, right, one, two)
            return
        if {one.name, two.name} <= _MAPS:
            inverted = False
            first, second = self._map(left, one), self._map(right, two)
        else:
            inverted = self._check(left, right, one, two)
            first, second = self._operands(left, one), self._operands(right, two)
        if first != second:
            raise _Differ(f"operation {left.index} (line {one.line}): {one!r}: works on other values")
        self._handlers(left, right, one, two)
        if one.target is not None:
            self._jump(left, right, one, two)
        if one.name in ENDS:
            return
        pushes = EFFECTS[one.name](one.arg)[1] if one.name in EFFECTS else 1
        kind = (
            "display"
            if one.name in _MAPS and (one.name == "ConstKeyMap" or one.arg[0] in _DISPLAYS)
            else "new"
        )
        results = [(kind, ("new", n)) for n in range(pushes)]
        left.stack.extend(results)
        right.stack.extend(results)
        left.index += 1
        right.index += 1
        if inverted:
            left.settle()
            right.settle()
            self.step_branch(left, right, swapped=True)
            return
        self._go(left, right)

    def _check(self, left: _Side, right: _Side, one: Op, two: Op) -> bool:
        where = f"operation {left.index} (line {one.line})"
        if one.name != two.name:
            raise _Differ(f"{where}: {one!r} / {two!r}")
        if one.arg == two.arg or one.name in _INTO or one.name in ("Reraise", "BranchMatch"):
            return False
        if one.name == "Compare" and NEGATED.get(one.arg) == two.arg:
            ahead = [side.ops[settle(side.ops, side.index + 1)] for side in (left, right)]
            if all(op.name == "Branch" and op.arg in ("true", "false") for op in ahead):
                return True
        raise _Differ(f"{where}: {one!r} / {two!r}")

    def _grows(self, side: _Side, op: Op) -> bool:
        """A call of a display's own method does what the growing operations do."""
        if op.name != "Call" or op.arg[1] or len(side.stack) <= op.arg[0]:
            return False
        return side.stack[-op.arg[0] - 1][0] == "method"

    def _grow(self, left: _Side, right: _Side, one: Op, two: Op) -> None:
        parts = []
        for side, op in ((left, one), (right, two)):
            if op.name in _INTO:
                *values, container = self._operands(side, op)
                parts.append((_INTO[op.name], values, container))
            elif self._grows(side, op):
                method, *values = self._operands(side, op)
                parts.append((method[1], values, method[2]))
                side.stack.append(("const", ("NoneType", None)))
            else:
                raise _Differ(f"operation {left.index} (line {one.line}): {one!r} / {two!r}")
            side.index += 1
        if parts[0] != parts[1]:
            raise _Differ(f"operation {left.index} (line {one.line}): {one!r} / {two!r}: grows otherwise")
        self._handlers(left, right, one, two)
        self._go(left, right)

    def _map(self, side: _Side, op: Op) -> "list[Any]":
        """Keys and values in turn, whether the keys lie on the stack or in a constant."""
        operands = self._operands(side, op)
        if op.name == "Build":
            return operands if op.arg[0] == "map" else [op.arg, *operands]
        *values, keys = operands
        names = keys[1][1] if keys[0] == "const" and keys[1][0] == "tuple" else [None] * len(values)
        return [part for key, value in zip(names, values) for part in (("const", key), value)]

    def _operands(self, side: _Side, op: Op) -> "list[Any]":
        stack = side.stack
        if op.name in ("ForIter", "AsyncForIter"):
            return [stack[-1]]
        pops = EFFECTS[op.name](op.arg)[0]
        if pops > len(stack):
            raise _Differ(f"operation {side.index}: the stack is too small")
        taken = stack[len(stack) - pops :]
        del stack[len(stack) - pops :]
        if op.name in _INTO:
            taken = [*taken, stack[-op.arg]]
        return taken + [stack[-place] for place in _PEEKS.get(op.name, ()) if place <= len(stack)]

    def _handlers(self, left: _Side, right: _Side, one: Op, two: Op) -> None:
        first, second = one.handler, two.handler
        if one.name in ("PushExc", "PopExc"):
            return
        if first is None or second is None:
            if first is not second:
                raise _Differ(f"operation {left.index} (line {one.line}): {one!r}: protected differently")
            return
        raised = ("new", "raised")
        arrivals = []
        for side, handler in ((left, first), (right, second)):
            lasti = [("new", "lasti")] if handler.lasti else []
            arrivals.append((handler.target, side.stack[: handler.depth] + lasti + [raised], side.local))
        self.arrive(*arrivals)

    def _jump(self, left: _Side, right: _Side, one: Op, two: Op) -> None:
        drop = 1 if one.name in ("ForIter", "AsyncForIter") else 0
        ends = [
            (op.target, side.stack[: len(side.stack) - drop], side.local)
            for side, op in ((left, one), (right, two))
        ]
        self.arrive(*ends)

    def step_branch(self, left: _Side, right: _Side, *, swapped: bool) -> None:
        if left.stack[-1] != right.stack[-1]:
            raise _Differ(f"operation {left.index}: a test of other values")
        if left.ops[left.index].arg in ("true", "false"):
            self._handlers(left, right, left.ops[left.index], right.ops[right.index])
        first, second = branch(left.ops, left.index), branch(right.ops, right.index)
        if first[0] != second[0]:
            raise _Differ(f"operation {left.index}: another test")
        for way in (0, 1):
            other = 1 - way if swapped else way
            self.arrive(_leave(left, first, way), _leave(right, second, other))

    def _go(self, left: _Side, right: _Side) -> None:
        self.arrive((left.index, left.stack, left.local), (right.index, right.stack, right.local))


def _leave(side: _Side, ways: "Any", way: int) -> "tuple[int, list, dict]":
    stack = side.stack if ways[3 + way] else side.stack[:-1]
    return ways[1 + way], stack, side.local


def _canonical(values: "list[Any]", *, paired: bool = False) -> "list[Any]":
    """Number the symbols by first place; constants, cells and unbound slots keep their names where
    certain."""
    numbers: dict = {}
    return [_numbered(value, numbers, paired) for value in values]


def _numbered(value: Any, numbers: "dict[Any, Any]", paired: bool) -> Any:
    one, two = value if paired else (value, value)
    if one == two and one[0] in ("const", "cell", "unbound"):
        return one
    if one[0] == two[0] == "method" and one[1] == two[1]:
        return ("method", one[1], _numbered((one[2], two[2]) if paired else one[2], numbers, paired))
    known = numbers.get(value)
    if known is None:
        kind = "display" if one[0] == two[0] == "display" else "value"
        known = numbers[value] = (kind, len(numbers))
    return known
