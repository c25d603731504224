"""``try`` and ``with``: bodies, clauses, ``else`` and ``finally``."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions, groups, moves
from torchard.compiler.decompile.graph import Block
from torchard.compiler.decompile.slots import Slot, Unstructured
from torchard.compiler.decompile.stack import Stack


def pop_exception(stack: Stack) -> None:
    """The handled exception is put away."""
    if not stack.slots or stack.slots[-1].kind != "mark":
        raise Unstructured("an exception is put away out of turn")
    stack.slots.pop()


def try_node(s: Any, stack: Stack, node: Block, ctx: Any) -> Any:
    """Write the statement of a protected range; return where control goes on."""
    from torchard.compiler.decompile.structure import STOP, Context

    stack.freeze()
    kind = s.protection.kinds[node.handler]
    meeting = _meeting(s, node, ctx)
    stop = meeting if meeting is not None else ctx.stop
    body = Stack(s.scope, list(stack.slots))
    region = ("body", node.handler)
    end = s.sequence(body, node.succs[0], Context(stop, ctx.header, ctx.follow, region), top=True)
    line = next((getattr(statement, "origin_line", None) for statement in body.out), None)
    if kind == "finally":
        final = _final_body(s, stack, node, ctx)
        append(stack, _try(body.out, [], [], final), line)
        if end is not None:
            _carry(stack, [body])
        return stop if end is STOP else end
    if kind == "group":
        return groups.statement(s, stack, node, ctx, (body, end), meeting, line)
    clauses = _clauses(s, stack, node, Context(stop, ctx.header, ctx.follow, ("clause", node.level + 1)))
    after, orelse = meet(s, stack, ctx, meeting, (body, end), clauses)
    append(stack, _try(body.out, [clause.node for clause in clauses], orelse, []), line)
    return after


def append(stack: Stack, statement: ast.stmt, line: Any) -> None:
    """Write ``statement`` as coming from ``line``."""
    stack.line = line
    stack.append(statement)


def _meeting(s: Any, node: Block, ctx: Any) -> "Block | None":
    """The block where body and handlers meet again."""
    best = None
    for child in s.graph.children[node.order]:
        if child in node.succs or child.level != node.level or child.chain != node.chain:
            continue
        if child is ctx.header or child is ctx.follow:
            continue
        if len(s.graph.forward(child)) > 1 and (best is None or child.order < best.order):
            best = child
    return best


def _try(
    body: "list[ast.stmt]", handlers: "list[Any]", orelse: "list[ast.stmt]", final: "list[ast.stmt]"
) -> ast.stmt:
    first: Any = body[0] if len(body) == 1 else None
    if final and type(first) in _STATEMENTS and first.handlers and not first.finalbody:
        first.finalbody = final
        return first
    return ast.Try(body or [ast.Pass()], handlers, orelse, final)


_STATEMENTS = (ast.Try, getattr(ast, "TryStar", ast.Try))

# -- finally


def _final_body(s: Any, stack: Stack, node: Block, ctx: Any) -> "list[ast.stmt]":
    from torchard.compiler.decompile.structure import Context

    handler = node.succs[1]
    part = Stack(s.scope, _handler_slots(stack, handler, 1))
    end = s.protection.finals[node.handler]
    s.sequence(part, handler, Context(end, ctx.header, ctx.follow, None), skip=1)
    return part.out or [ast.Pass()]


def _handler_slots(stack: Stack, handler: Block, pushed: int) -> "list[Slot]":
    """The stack in a handler after PUSH_EXC_INFO."""
    slots = stack.slots[: handler.height - pushed]
    if len(slots) != handler.height - pushed:
        raise Unstructured("the stack of a handler does not fit")
    return [*slots, Slot("mark", data="previous"), Slot("mark", data="exception")]


# -- except


class Clause:
    """One way out of a handler: its statement, the stack there, and where control goes on."""

    def __init__(self, node: ast.ExceptHandler, stack: Stack, end: Any) -> None:
        self.node = node
        self.stack = stack
        self.end = end


def _clauses(s: Any, stack: Stack, node: Block, ctx: Any) -> "list[Clause]":
    block = node.succs[1]
    part = Stack(s.scope, _handler_slots(stack, block, 1))
    clauses: "list[Clause]" = []
    skip = 1
    while True:
        s.done.add(block)
        ops = block.ops[skip:]
        if ops and ops[0].name == "Reraise":
            return clauses
        if ops and ops[0].name == "Pop":
            clauses.append(_clause(s, part, block, ctx, None, skip))
            return clauses
        kind, matched, unmatched = _match(s, part, block, skip)
        clauses.append(_clause(s, part, matched, ctx, kind, 0))
        block, skip = unmatched, 0


def _match(s: Any, part: Stack, block: Block, skip: int) -> "tuple[ast.expr, Block, Block]":
    """Read ``except <kind>``: the expression, and where it matches and where not."""
    kind, block = computed(s, part, block, skip, ["Match", "Branch"])
    if block.ops[-1].arg == "false":
        return kind, block.succs[0], block.succs[1]
    return kind, block.succs[1], block.succs[0]


def computed(s: Any, part: Stack, block: Block, skip: int, ending: "list[str]") -> "tuple[ast.expr, Block]":
    """Return the expression of what a clause takes, and the block that ends in the question."""
    pure = Stack(s.scope, list(part.slots), pure=True)
    while True:
        names = [op.name for op in block.ops[skip:]]
        if names[-len(ending) :] == ending:
            break
        if names[-1:] not in (["Branch"], ["BranchKeep"]):
            raise Unstructured("a handler of unknown form")
        expressions.run(pure, block.ops[skip:-1])
        visited: "list[Block]" = []
        after = s.conditions.value(pure, block, s.conditions.fold(block, pure), visited)
        if after is None:
            raise Unstructured("a handler of unknown form")
        s.done.update(visited)
        block, skip = after, 0
    s.done.add(block)
    expressions.run(pure, block.ops[skip : -len(ending)])
    (kind,) = pure.take(1)
    return kind.expr, block


def _clause(s: Any, part: Stack, block: Block, ctx: Any, kind: "ast.expr | None", skip: int) -> Clause:
    first = block.ops[skip] if len(block.ops) > skip else None
    title = None
    if first is not None and first.name == "Store":
        s.scope.note_store(*first.arg)
        title = first.arg[1]
    elif first is None or first.name != "Pop":
        raise Unstructured("a handler that does not take its exception")
    stack = Stack(s.scope, part.slots[:-1])
    end = s.sequence(stack, block, ctx, top=True, skip=skip + 1)
    return Clause(ast.ExceptHandler(kind, title, stack.out or [ast.Pass()]), stack, end)


def meet(s: Any, stack: Stack, ctx: Any, meeting: "Block | None", body: Any, clauses: "list[Clause]") -> Any:
    """Decide what follows the statement and what its ``else`` is: (block or STOP or None, else
    statements)."""
    from torchard.compiler.decompile.structure import STOP

    part, end = body
    ends = [one for one in (end, *[clause.end for clause in clauses]) if one is not None]
    if not ends:
        return None, []
    target = _target(s, ctx, meeting, end, [clause.end for clause in clauses if clause.end is not None], STOP)
    for clause in clauses:
        if clause.end is None or clause.end is STOP or _alike(s, clause.end, target):
            continue
        if not s.trivial(clause.end):
            raise Unstructured("handlers go on at different places")
        s.sequence(clause.stack, clause.end, ctx.to(None))
        clause.node.body = clause.stack.out
    orelse: "list[ast.stmt]" = []
    arrived = [clause.stack for clause in clauses if clause.end is STOP or _alike(s, clause.end, target)]
    if end is not None and end is not STOP and not _alike(s, end, target):
        branch = Stack(s.scope, list(part.slots))
        if s.sequence(branch, end, ctx.to(target)) is not None:
            arrived.append(branch)
        orelse = branch.out
    elif end is not None:
        arrived.append(part)
    _carry(stack, arrived)
    return target, orelse


def _carry(stack: Stack, arrived: "list[Stack]") -> None:
    """Take over what lies on the stack behind the statement, if all ways there agree."""
    if not arrived:
        return
    values = [[slot for slot in one.slots if slot.kind != "mark"] for one in arrived]
    if any([slot.uid for slot in one] != [slot.uid for slot in values[0]] for one in values):
        raise Unstructured("ways out of a protected range leave different values")
    outer = {slot.uid for slot in stack.slots if slot.kind == "mark"}
    stack.slots[:] = [slot for slot in arrived[0].slots if slot.kind != "mark" or slot.uid in outer]


def _target(s: Any, ctx: Any, meeting: "Block | None", end: Any, others: "list[Any]", stop: Any) -> Any:
    """The block that follows the whole statement."""
    if meeting is not None:
        return meeting
    if end is stop or stop in others:
        return ctx.stop
    large = [one for one in others if not s.trivial(one)]
    if large:
        return max(large, key=lambda block: block.start)
    if end is not None and not s.trivial(end):
        return end
    return others[-1] if others else end


def _alike(s: Any, one: Any, two: Any) -> bool:
    from torchard.compiler.decompile.loops import same_code
    from torchard.compiler.decompile.structure import STOP

    if one is None or one is STOP or two is STOP:
        return False
    if one is two or two is None:
        return one is two
    return (s.small(one) and s.small(two) and same_code(one, two)) or _copied(one, two)


def _copied(one: Block, two: Block) -> bool:
    """One operation or two that the compiler wrote at the end of each way, instead of a jump to one place."""
    if one.kind != "plain" or two.kind != "plain" or len(one.succs) != 1 or one.succs != two.succs:
        return False
    code = [[(op.name, op.arg) for op in block.ops] for block in (one, two)]
    return code[0] == code[1] and len(code[0]) <= 2 and one.chain == two.chain


# -- with


def with_block(s: Any, stack: Stack, block: Block, ctx: Any) -> Any:
    """Write the ``with`` statement that ``block`` enters; return where control goes on."""
    from torchard.compiler.decompile.structure import STOP, Context

    op = block.ops[-1]
    stack.line = op.line
    (manager,) = stack.take(1)
    stack.close_targets()
    stack.freeze()
    inside, after = block.succs
    item = ast.withitem(manager.expr, None)
    part = Stack(s.scope, list(stack.slots))
    part.push("mark", data="exit")
    target = moves.optional_target(part)
    target.done = lambda place: setattr(item, "optional_vars", place)
    meeting = after
    region = ("body", block.handler)
    end = s.sequence(part, inside, Context(meeting, ctx.header, ctx.follow, region), top=True)
    kind = ast.AsyncWith if op.arg else ast.With
    body = part.out or [ast.Pass()]
    items = [item]
    if len(body) == 1 and type(body[0]) is kind:
        items, body = [item, *body[0].items], body[0].body
    stack.line = op.line
    stack.append(kind(items, body))
    if end is not None and end is not STOP and not _alike(s, end, after):
        raise Unstructured("a context goes on at two places")
    if end is not None:
        _carry(stack, [part])
    return after
