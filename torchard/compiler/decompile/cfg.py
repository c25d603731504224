"""Basic blocks with protected ranges resolved: the graph that structure is found in."""

from typing import Any

from torchard.compiler.decompile.graph import Block, Graph
from torchard.compiler.decompile.ops import ENDS, MATCHING, Op
from torchard.compiler.decompile.protect import JUMPS_UNCOVERED, Protection
from torchard.compiler.decompile.simplify import derotate, merge, share_ends, thread, unify_drops
from torchard.compiler.decompile.slots import Unstructured


def build(ops: "list[Op]", stacks: "list[Any]", protection: Protection) -> Graph:
    """Cut ``ops`` into blocks, insert try nodes, undo loop rotation, merge what needs no cut."""
    starts = _leaders(ops, protection)
    blocks = {start: Block(index, start) for index, start in enumerate(starts)}
    order = list(blocks.values())
    for place, block in enumerate(order):
        end = order[place + 1].start if place + 1 < len(order) else len(ops)
        _fill(block, ops, end, blocks, protection)
        block.height = len(stacks[block.start])
        block.level = stacks[block.start].count("p")
    _inherit_chains(order, protection)
    _end_finally_clauses(blocks, protection)
    root = Block(-1, -1)
    root.kind = "root"
    root.succs = [blocks[protection.redirect(0)]]
    root.succs += [
        blocks[one] for one, kind in protection.kinds.items() if kind in ("except", "finally", "group")
    ]
    graph = Graph(root, order)
    thread(graph)
    graph.refresh()
    merge(graph)
    share_ends(graph)
    unify_drops(graph)
    derotate(graph)
    graph.entry = root.succs[0]
    _insert_tries(graph, blocks)
    return graph


def _leaders(ops: "list[Op]", protection: Protection) -> "list[int]":
    """Where blocks begin. With ``match``, every drop that a jump leads to is a block: patterns share them."""
    starts = {0, *protection.leaders}
    before: Any = ()
    for index, op in enumerate(ops):
        if op.target is not None:
            starts.add(op.target)
        chain = protection.chain(op)
        if chain != before:
            starts.add(index)
            before = chain
        if op.target is not None or op.name in ENDS or op.name in ("EnterWith", "PopExc"):
            starts.add(index + 1)
        if op.name in ("ForIter", "AsyncForIter"):
            starts.add(index)
        if op.handler is not None:
            starts.add(op.handler.target)
    if any(op.name in MATCHING for op in ops):
        for index, op in enumerate(ops):
            if op.name == "Pop" and index in starts:
                starts.add(index + 1)
    return sorted(start for start in starts if start < len(ops))


def _fill(
    block: Block, ops: "list[Op]", end: int, blocks: "dict[int, Block]", protection: Protection
) -> None:
    block.ops = ops[block.start : end]
    block.chain = protection.chain(block.ops[0])
    last = block.ops[-1]
    ways: "list[int]" = []
    if last.name not in ENDS:
        ways.append(end)
    if last.target is not None:
        ways.append(last.target)
    if last.name == "EnterWith":
        block.kind = "with"
        block.handler = protection.with_handler(end - 1)
        ways.append(protection.suppressed(block.handler))
    block.succs = [_landing(block, way, ops, blocks, protection) for way in ways]
    if last.name == "Jump":
        block.ops = block.ops[:-1]


def _landing(
    block: Block, way: int, ops: "list[Op]", blocks: "dict[int, Block]", protection: Protection
) -> Block:
    """The block that control reaches by ``way``; copies are skipped, but leaving and entering a range again
    is kept."""
    end = protection.redirect(way)
    if end == way:
        return blocks[end]
    outside, after = protection.chain(ops[way]), protection.chain(ops[end])
    if not any(one in after and one not in outside for one in block.chain):
        return blocks[end]
    between = Block(1_000_000 + way, way)
    between.chain = tuple(one for one in after if one in outside)
    between.level, between.height = protection.stacks[end].count("p"), len(protection.stacks[end])
    between.succs = [blocks[end]]
    return between


def _end_finally_clauses(blocks: "dict[int, Block]", protection: Protection) -> None:
    """All ways through a finally clause lead to one block, which raises the exception again."""
    for handler, kind in protection.kinds.items():
        if kind != "finally" or handler not in blocks:
            continue
        start = blocks[handler]
        end = Block(-handler - 1, 1 << 30)
        end.chain, end.level, end.height = start.chain, start.level + 1, start.height + 1
        end.kind = "end"
        end.ops = [Op("Reraise", 0)]
        protection.finals[handler] = end
        for block in _within(start, blocks):
            if (
                block.ops
                and block.ops[-1].name == "Reraise"
                and block.succs == []
                and _level_at_end(block) == end.level
            ):
                block.ops = block.ops[:-1]
                block.succs = [end]


def _within(start: Block, blocks: "dict[int, Block]") -> "list[Block]":
    """The blocks of a handler, those of handlers inside it too."""
    seen = {start}
    todo = [start]
    while todo:
        block = todo.pop()
        inner = [blocks[one] for one in block.chain if one not in start.chain and one in blocks]
        for follower in block.succs + inner:
            if follower not in seen and follower.level > start.level:
                seen.add(follower)
                todo.append(follower)
    return list(seen)


def _level_at_end(block: Block) -> int:
    return (
        block.level
        + sum(op.name == "PushExc" for op in block.ops)
        - sum(op.name == "PopExc" for op in block.ops)
    )


def _inherit_chains(order: "list[Block]", protection: Protection) -> None:
    """3.12 and later leave jumps out of the table: blocks of nothing else belong to where they come from."""
    if not JUMPS_UNCOVERED:
        return
    preds: "dict[Block, list[Block]]" = {}
    for block in order:
        for follower in block.succs:
            preds.setdefault(follower, []).append(block)
    for block in order:
        if block.ops or len(block.succs) != 1:
            continue
        before = [other.chain for other in preds.get(block, ()) if other is not block]
        after = block.succs[0].chain
        if before and all(chain == after for chain in before):
            block.chain = after


def _insert_tries(graph: Graph, blocks: "dict[int, Block]") -> None:
    """Put a try node where control enters a protected range; handlers hang on these nodes only."""
    nodes: "dict[int, Block]" = {}
    contexts = {block.handler for block in graph.blocks if block.kind == "with"}
    number = max(block.index for block in graph.blocks) + 1
    work: "list[Any]" = [(None, graph.entry)]
    seen = {graph.entry}
    graph.refresh()
    while work:
        before, block = work.pop()
        outer = before.chain if before is not None else ()
        entered = _entered(outer, block.chain)
        if before is None and entered:
            graph.entry = _nest(block, entered, nodes, blocks, number, contexts)
            number += len(entered)
        for way, follower in enumerate(block.succs):
            fresh = _entered(block.chain, follower.chain) if block.kind != "with" or way else _entered(
                (block.handler, *block.chain), follower.chain
            )  # fmt: skip
            if fresh:
                block.succs[way] = _nest(follower, fresh, nodes, blocks, number, contexts)
                number += len(fresh)
            if follower not in seen:
                seen.add(follower)
                work.append((block, follower))
        for handler in [nodes[one].succs[1] for one in block.chain if one in nodes]:
            if handler not in seen:
                seen.add(handler)
                work.append((handler, handler))
    graph.refresh()


def _entered(outer: "tuple[int, ...]", inner: "tuple[int, ...]") -> "tuple[int, ...]":
    """The handlers of ``inner`` that ``outer`` lacks, outermost first."""
    return tuple(one for one in reversed(inner) if one not in outer)


def _nest(block: Block, handlers: "tuple[int, ...]", nodes: "dict[int, Block]", blocks: "dict[int, Block]",
          number: int,
          contexts: "set[Any]") -> Block:  # fmt: skip
    """Return the outermost of the try nodes that stand before ``block``."""
    result: Any = None
    previous: Any = None
    for handler in handlers:
        if handler in nodes:
            node = nodes[handler]
            inside = node.succs[0]
            expected = inside if handler == handlers[-1] else None
            if expected is not None and expected is not block:
                raise Unstructured("a protected range is entered at two places")
        else:
            if handler in contexts:
                raise Unstructured("a context's body is entered from elsewhere")
            node = Block(number, block.start)
            number += 1
            node.kind = "try"
            node.handler = handler
            node.chain = block.chain[block.chain.index(handler) + 1 :]
            node.level, node.height = block.level, block.height
            node.succs = [block, blocks[handler]]
            nodes[handler] = node
        if previous is not None:
            previous.succs[0] = node
        result = result or node
        previous = node
    return result
