"""Loops: which block follows, what is the test, is there an ``else``."""

import ast
from typing import Any

from torchard.compiler.decompile import expressions
from torchard.compiler.decompile.graph import Block
from torchard.compiler.decompile.slots import Impure, Slot, Target, Unstructured
from torchard.compiler.decompile.stack import Stack


def _negate(expr: ast.expr) -> ast.expr:
    from torchard.compiler.decompile.conditions import negate

    return negate(expr)


def loop(s: Any, stack: Stack, header: Block, ctx: Any) -> "Block | None":
    """Write the loop at ``header``; return the block behind it."""
    s.align(stack, header)
    if inlined(stack, header):
        found: "list[Block]" = []
        after = comprehension(s, stack, header, found)
        s.done.update(found)
        return after
    if steps(header):
        return _for(s, stack, header, ctx)
    stack.freeze()
    body = s.graph.loops[header]
    cond = _header_test(s, stack, header, body)
    if cond is not None:
        return _while(s, stack, header, ctx, cond)
    return _forever(s, stack, header, ctx)


def steps(header: Block) -> bool:
    """Does the block take the next item of an iterator?"""
    return bool(header.ops) and header.ops[0].name in ("ForIter", "AsyncForIter")


def inlined(stack: Stack, header: Block) -> bool:
    """Is this the loop of a comprehension that the compiler wrote in place (3.12 and later)?"""
    slots = stack.slots
    if not steps(header) or len(slots) < 3 or slots[-1].kind != "iter" or slots[-2].kind != "owned":
        return False
    return slots[-3].kind == "mark" and slots[-3].data[:1] == ("cleared",)


def comprehension(s: Any, stack: Stack, header: Block, found: "list[Block]") -> Block:
    """Replace the display being built and the iterator by the comprehension; add its blocks to ``found``."""
    from torchard.compiler.decompile.functions import from_loop
    from torchard.compiler.decompile.structure import Context

    iterator, display = stack.slots.pop(), stack.slots.pop()
    inside, outside = header.succs
    node = _loop_node(header, iterator.expr)
    target = Target()
    target.done = lambda place: setattr(node, "target", place)
    part = Stack(s.scope, [Slot("mark", data="outside") for _ in stack.slots])
    collected = s.scope.settings.special("collected")
    s.scope.frozen.add(collected)
    part.push("pure", ast.Name(collected, ast.Load()), frozenset((collected,)))
    part.push("mark", data="iterator")
    part.push("target", data=target)
    before = set(s.done)
    s.done.add(header)
    try:
        s.sequence(part, inside, Context(header, header, None, None))
    finally:
        found.extend(block for block in s.done if block not in before)
        s.done.clear()
        s.done.update(before)
    node.body = part.out
    kinds: "dict[type, str]" = {ast.List: "<listcomp>", ast.Set: "<setcomp>", ast.Dict: "<dictcomp>"}
    if getattr(display.expr, "elts", None) or getattr(display.expr, "keys", None):
        raise Unstructured("a comprehension on a display with elements")
    stack.push("ordered", from_loop(kinds[type(display.expr)], node), iterator.reads)
    return outside


def _loop_node(header: Block, iterable: ast.expr) -> Any:
    """A ``for`` whose target is filled in when the item is stored."""
    kind: Any = ast.AsyncFor if header.ops[0].name == "AsyncForIter" else ast.For
    return kind(None, iterable, [], [])


def _for(s: Any, stack: Stack, header: Block, ctx: Any) -> "Block | None":
    from torchard.compiler.decompile.structure import Context

    if len(header.ops) != 1:
        raise Unstructured("a loop header with more than its step")
    s.done.add(header)
    iterator = stack.slots[-1]
    if iterator.kind != "iter" and not (iterator.kind == "pure" and iterator.reads == {".0"}):
        raise Unstructured("a loop over something else than a new iterator")
    stack.slots.pop()
    stack.line = header.ops[0].line
    stack.close_targets()
    stack.freeze()
    inside, outside = header.succs
    follow = _follow(s, header, outside, ctx)
    node = _loop_node(header, iterator.expr)
    target = Target()
    target.done = lambda place: setattr(node, "target", place)
    part = Stack(s.scope, list(stack.slots))
    part.push("mark", data="iterator")
    part.push("target", data=target)
    s.sequence(part, inside, Context(header, header, follow, ctx.region))
    if node.target is None:
        raise Unstructured("a loop whose item is not stored")
    node.body = part.out or [ast.Pass()]
    after = _else(s, stack, node, outside, follow, ctx)
    stack.append(node)
    return after


def _while(s: Any, stack: Stack, header: Block, ctx: Any, cond: Any) -> "Block | None":
    from torchard.compiler.decompile.structure import Context

    body = s.graph.loops[header]
    s.done.update(cond.members)
    inside, outside = (cond.yes, cond.no) if cond.yes in body else (cond.no, cond.yes)
    test = cond.expr if cond.yes in body else _negate(cond.expr)
    follow = _follow(s, header, outside, ctx)
    part = Stack(s.scope, list(stack.slots))
    s.sequence(part, inside, Context(header, header, follow, ctx.region))
    node = ast.While(test, part.out or [ast.Pass()], [])
    stack.line = header.ops[0].line if header.ops else None
    after = _else(s, stack, node, outside, follow, ctx)
    stack.append(node)
    return after


def _forever(s: Any, stack: Stack, header: Block, ctx: Any) -> "Block | None":
    from torchard.compiler.decompile.structure import Context

    follow = _follow_of_endless(s, header, ctx)
    part = Stack(s.scope, list(stack.slots))
    s.sequence(part, header, Context(header, header, follow, ctx.region), fresh=header)
    stack.append(ast.While(ast.Constant(True), part.out or [ast.Pass()], []))
    return follow


def _else(
    s: Any, stack: Stack, node: Any, outside: Block, follow: "Block | None", ctx: Any
) -> "Block | None":
    """What runs when the loop is exhausted, if that is not simply what follows."""
    if outside is follow or follow is None:
        return outside
    if s.small(outside) and s.small(follow) and same_code(outside, follow):
        return follow
    part = Stack(s.scope, list(stack.slots))
    s.sequence(part, outside, ctx.to(follow))
    node.orelse = part.out
    return follow


def same_code(one: Block, two: Block) -> bool:
    """Equal operations that end the function."""
    if one.succs or two.succs or len(one.ops) != len(two.ops) or one.chain != two.chain:
        return False
    return all(
        a.name == b.name and type(a.arg) is type(b.arg) and a.arg == b.arg for a, b in zip(one.ops, two.ops)
    )


def _header_test(s: Any, stack: Stack, header: Block, body: "set[Block]") -> Any:
    """The loop's condition, if the header does nothing but test and one way leads out."""
    if header.kind != "plain" or not header.ops or header.ops[-1].name != "Branch":
        return None
    part = Stack(s.scope, list(stack.slots), pure=True)
    try:
        expressions.run(part, header.ops[:-1])
        cond = s.conditions.fold(header, part)
    except (Impure, Unstructured):
        return None
    if len(part.slots) != len(stack.slots) or cond.keep_yes or cond.keep_no:
        return None
    if (cond.yes in body) == (cond.no in body) or cond.yes is header or cond.no is header:
        if cond.yes is header and cond.no not in body or cond.no is header and cond.yes not in body:
            return cond
        return None
    return cond


# -- what follows


def _follow(s: Any, header: Block, outside: Block, ctx: Any) -> "Block | None":
    """Where ``break`` leads in a loop that can also be exhausted (to ``outside``)."""
    body = s.graph.loops.get(header, {header})
    later = [
        block for block in _merges(s, header, body) if block is not outside and block.start > outside.start
    ]
    if s.graph.dominates(header, outside):
        away = _away(s, header, body, outside, ctx)
        if later and not (away and s.attempt % 2):
            return min(later, key=lambda block: block.start)
        if away:
            return away[0]
    else:
        other = [block for block in _away(s, header, body, None, ctx) if block is not outside]
        if other:
            return other[0]
    return outside


def _follow_of_endless(s: Any, header: Block, ctx: Any) -> "Block | None":
    body = s.graph.loops[header]
    last = max(block.start for block in body)
    merges = [block for block in _merges(s, header, body) if block.start > last]
    away = _away(s, header, body, None, ctx)
    if away:
        return away[0]
    if merges:
        return min(merges, key=lambda block: block.start)
    exits = [block for block in _exits(s, header, body) if block.start > last and not s.small(block)]
    if not exits:
        exits = [block for block in _exits(s, header, body) if block.start > last]
    if not exits:
        exits = [
            block
            for block in _exits(s, header, body)
            if any(b in body and b.chain != block.chain for b in block.preds)
        ]
    return min(exits, key=lambda block: block.start) if exits else None


def _region(s: Any, header: Block, body: "set[Block]") -> "tuple[set[Block], list[Block]]":
    """The loop with the handlers and protected code that leave it, and the blocks just outside of all
    that."""
    region, edge = set(body), []
    todo = list(body)
    while todo:
        for follower in todo.pop().succs:
            if follower in region or not s.graph.dominates(header, follower):
                continue
            while s.trivial(follower) and len(follower.succs) == 1 and len(follower.preds) == 1:
                region.add(follower)
                follower = follower.succs[0]
            if follower in region:
                continue
            handles = follower.ops[:1] and follower.ops[0].name == "PushExc"  # never a way out
            beside = follower.level <= header.level and s.conditions.outer(follower.chain, header.chain)
            if beside and not handles:
                if follower not in edge:
                    edge.append(follower)
            else:
                region.add(follower)
                todo.append(follower)
    return region, edge


def _exits(s: Any, header: Block, body: "set[Block]") -> "list[Block]":
    """Blocks just outside the loop, in the header's own region."""
    return _region(s, header, body)[1]


def _merges(s: Any, header: Block, body: "set[Block]") -> "list[Block]":
    """Blocks outside the loop where two ways from inside meet."""
    result = []
    for block in _region(s, header, body)[0]:
        for child in s.graph.children[block.order]:
            if (
                child in body
                or child.level > header.level
                or not s.conditions.outer(child.chain, header.chain)
            ):
                continue
            if len(s.graph.forward(child)) > 1:
                result.append(child)
    return result


def _away(s: Any, header: Block, body: "set[Block]", outside: "Block | None", ctx: Any) -> "list[Block]":
    """Ends of the surrounding sequence that the loop jumps to directly, past its own exhaustion."""
    found = []
    for block in s.graph.subtree(header):
        if outside is not None and s.graph.dominates(outside, block) and outside not in body:
            continue
        for follower in block.succs:
            if (
                follower in (ctx.stop, ctx.header, ctx.follow)
                and follower is not None
                and follower not in found
            ):
                if not s.graph.dominates(header, follower):
                    found.append(follower)
    found.sort(key=lambda block: (block is not ctx.stop, block is not ctx.follow))
    return found
