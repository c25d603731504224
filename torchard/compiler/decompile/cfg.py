"""Basic blocks with protected ranges resolved: the graph that structure is found in."""

from typing import Any

from torchard.compiler.decompile.ops import EFFECTS, ENDS, Op
from torchard.compiler.decompile.protect import JUMPS_UNCOVERED, Protection
from torchard.compiler.decompile.slots import Unstructured


class Block:
    """Operations that run one after the other.

    ``chain`` holds the handlers that protect it (innermost first, compiler clean-up resolved), ``level`` how many
    exceptions are being handled, ``height`` how many values lie on the stack before it. ``kind`` is "plain", "with"
    (ends by entering a context) or "try" (no operations; successors: body and handler).
    """

    __slots__ = (
        "chain",
        "handler",
        "height",
        "index",
        "kind",
        "level",
        "ops",
        "order",
        "parent",
        "preds",
        "start",
        "succs",
    )

    def __init__(self, index: int, start: int) -> None:
        self.index = index
        self.start = start
        self.ops: "list[Op]" = []
        self.succs: "list[Block]" = []
        self.preds: "list[Block]" = []
        self.chain: "tuple[int, ...]" = ()
        self.level = 0
        self.height = 0
        self.kind = "plain"
        self.handler: Any = None
        self.order = -1
        self.parent: Any = None

    def __repr__(self) -> str:
        ways = ", ".join(str(block.index) for block in self.succs)
        return f"<{self.kind} {self.index}@{self.start} -> {ways}; chain {self.chain} level {self.level}>"

    @property
    def last(self) -> Any:
        return self.ops[-1] if self.ops else None


class Graph:
    """Blocks reachable from ``entry``, with dominators, order and loops."""

    def __init__(self, entry: Block, blocks: "list[Block]") -> None:
        self.entry = entry
        self.blocks = blocks
        self.refresh()

    def refresh(self) -> None:
        """Recompute order, predecessors, dominators and loops after the edges changed."""
        self._sort()
        self._dominate()
        self._find_loops()

    def _sort(self) -> None:
        seen = {self.entry}
        done: "list[Block]" = []
        path: "list[tuple[Block, int]]" = [(self.entry, 0)]
        while path:
            block, way = path.pop()
            if way < len(block.succs):
                path.append((block, way + 1))
                follower = block.succs[way]
                if follower not in seen:
                    seen.add(follower)
                    path.append((follower, 0))
            else:
                done.append(block)
        done.reverse()
        self.blocks = done
        for order, block in enumerate(done):
            block.order = order
            block.preds = []
            block.parent = None
        for block in done:
            for follower in block.succs:
                if block not in follower.preds:
                    follower.preds.append(block)

    def _dominate(self) -> None:
        blocks = self.blocks
        parents: "list[int]" = [-1] * len(blocks)
        parents[0] = 0
        changed = True
        while changed:
            changed = False
            for block in blocks[1:]:
                new = -1
                for before in block.preds:
                    if parents[before.order] < 0:
                        continue
                    new = before.order if new < 0 else _meet(parents, new, before.order)
                if new != parents[block.order]:
                    parents[block.order] = new
                    changed = True
        self.children: "list[list[Block]]" = [[] for _ in blocks]
        for block in blocks[1:]:
            block.parent = blocks[parents[block.order]]
            self.children[parents[block.order]].append(block)
        self._number()

    def _number(self) -> None:
        """Intervals in the dominator tree, for constant-time questions."""
        self.enter = [0] * len(self.blocks)
        self.leave = [0] * len(self.blocks)
        clock = 0
        path: "list[tuple[Block, int]]" = [(self.entry, 0)]
        self.preorder: "list[Block]" = []
        while path:
            block, child = path.pop()
            if child == 0:
                self.enter[block.order] = clock
                self.preorder.append(block)
                clock += 1
            if child < len(self.children[block.order]):
                path.append((block, child + 1))
                path.append((self.children[block.order][child], 0))
            else:
                self.leave[block.order] = clock

    def dominates(self, one: Block, other: Block) -> bool:
        return self.enter[one.order] <= self.enter[other.order] < self.leave[one.order]

    def subtree(self, block: Block) -> "list[Block]":
        return self.preorder[self.enter[block.order] : self.leave[block.order]]

    def _find_loops(self) -> None:
        self.loops: "dict[Block, set[Block]]" = {}
        for block in self.blocks:
            for follower in block.succs:
                if follower.order <= block.order and self.entry.kind != "root":
                    if not self.dominates(follower, block):
                        raise Unstructured("a loop with two entries")
                    self._grow_loop(follower, block)

    def _grow_loop(self, header: Block, tail: Block) -> None:
        body = self.loops.setdefault(header, {header})
        todo = [tail]
        while todo:
            block = todo.pop()
            if block not in body:
                body.add(block)
                todo.extend(block.preds)

    def forward(self, block: Block) -> "list[Block]":
        """Predecessors that are not behind a back edge."""
        return [before for before in block.preds if before.order < block.order]


def _meet(parents: "list[int]", one: int, other: int) -> int:
    while one != other:
        while one > other:
            one = parents[one]
        while other > one:
            other = parents[other]
    return one


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
    _thread(graph)
    graph.refresh()
    _merge(graph)
    _unify_drops(graph)
    _derotate(graph)
    graph.entry = root.succs[0]
    _insert_tries(graph, blocks)
    return graph


def _leaders(ops: "list[Op]", protection: Protection) -> "list[int]":
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
    """The block that control reaches by ``way``; copies are skipped, but leaving and entering a range again is kept."""
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
        for block in _within(start):
            if (
                block.ops
                and block.ops[-1].name == "Reraise"
                and block.succs == []
                and _level_at_end(block) == end.level
            ):
                block.ops = block.ops[:-1]
                block.succs = [end]


def _within(start: Block) -> "list[Block]":
    seen = {start}
    todo = [start]
    while todo:
        for follower in todo.pop().succs:
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


def _thread(graph: Graph) -> None:
    """Send edges past blocks without operations."""
    for block in graph.blocks:
        for way, follower in enumerate(block.succs):
            steps = 0
            while (
                not follower.ops
                and len(follower.succs) == 1
                and follower.succs[0] is not follower
                and steps < 1000
            ):
                after = follower.succs[0]
                if follower.kind != "plain" or any(
                    one in after.chain and one not in follower.chain for one in block.chain
                ):
                    break
                follower = after
                steps += 1
            block.succs[way] = follower


def _merge(graph: Graph) -> None:
    """Join a block to its only successor where nothing else comes in and nothing changes between them."""
    gone = set()
    for block in graph.blocks:
        if block in gone:
            continue
        while block.kind == "plain" and len(block.succs) == 1:
            follower = block.succs[0]
            if follower is block or follower.kind == "end" or len(follower.preds) != 1:
                break
            if block.ops and block.ops[-1].name == "PopExc":
                break
            if follower.chain != block.chain or follower.level != block.level or follower in gone:
                break
            if follower.ops and follower.ops[0].name in ("ForIter", "AsyncForIter"):
                break
            block.ops = block.ops + follower.ops
            block.succs = follower.succs
            block.kind, block.handler = follower.kind, follower.handler
            for after in follower.succs:
                after.preds = [block if before is follower else before for before in after.preds]
            gone.add(follower)
    graph.refresh()


def _unify_drops(graph: Graph) -> None:
    """Blocks that only drop the middle of a failed chained comparison exist once for each link: one will do."""
    known: "dict[Any, Block]" = {}
    for block in graph.blocks:
        for way, follower in enumerate(block.succs):
            names = tuple((op.name, op.arg) for op in follower.ops)
            if names in ((("Pop", None),), (("Swap", 2), ("Pop", None))) and len(follower.succs) == 1:
                key = (names, follower.succs[0], follower.chain, follower.level, follower.height)
                block.succs[way] = known.setdefault(key, follower)
    graph.refresh()


def _derotate(graph: Graph) -> None:
    """``while`` loops repeat their test at the end of the body: make the repetition a jump to the first test."""
    changed = True
    rounds = 0
    while changed and rounds < 50:
        changed = False
        rounds += 1
        tests: "dict[Any, list[Block]]" = {}
        for block in graph.blocks:
            last = block.last
            if last is not None and last.name == "Branch" and block.succs[0] is not block.succs[1]:
                tests.setdefault(frozenset(follower.index for follower in block.succs), []).append(block)
        for group in tests.values():
            if len(group) > 1 and _derotate_group(graph, group):
                changed = True
        if changed:
            _merge(graph)


def _derotate_group(graph: Graph, group: "list[Block]") -> bool:
    changed = False
    for first in group:
        size = _test_size(first)
        if not size:
            continue
        test = first.ops[-size:]
        for second in group:
            if second.start <= first.start or second.chain != first.chain or len(second.succs) != 2:
                continue
            if not _loops_back(first, second) or not _equal_tests(first, test, second):
                continue
            header = _split(graph, first, size)
            second.ops = second.ops[:-size]
            second.succs = [header]
            first = header
            changed = True
    if changed:
        graph.refresh()
        _thread(graph)
        graph.refresh()
    return changed


def _split(graph: Graph, block: Block, size: int) -> Block:
    """Cut the last ``size`` operations off; return the block that holds them."""
    if size == len(block.ops):
        return block
    tail = Block(max(other.index for other in graph.blocks) + 1, block.start)
    tail.start = block.start + len(block.ops) - size
    tail.ops, tail.succs = block.ops[-size:], block.succs
    tail.chain, tail.level = block.chain, tail.succs[0].level
    tail.height = tail.succs[0].height - (tail.ops[-2].name == "ChainLink")
    block.ops, block.succs = block.ops[:-size], [tail]
    graph.blocks.append(tail)
    return tail


def _loops_back(first: Block, second: Block) -> bool:
    return any(first.start < follower.start <= second.start for follower in second.succs)


def _equal_tests(first: Block, test: "list[Op]", second: Block) -> bool:
    suffix = second.ops[-len(test) :]
    if len(suffix) != len(test):
        return False
    for one, two in zip(test[:-1], suffix[:-1]):
        if one.name != two.name or type(one.arg) is not type(two.arg) or one.arg != two.arg:
            return False
    return _ways(first) == _ways(second)


def _ways(block: Block) -> "tuple[str, Block, Block]":
    """The branch with its sense taken out: what is tested, where to if so, where to if not."""
    test = block.ops[-1].arg
    follow, jump = block.succs
    if test in ("true", "none"):
        return test, jump, follow
    return ("true" if test == "false" else "none"), follow, jump


def _test_size(block: Block) -> int:
    """How many operations at the end compute the value that the block branches on; 0 if it is not computed here."""
    need = 1
    for count, op in enumerate(reversed(block.ops[:-1]), 2):
        if op.name not in EFFECTS:
            return 0
        pops, pushes = (2, 1) if op.name == "ChainLink" else EFFECTS[op.name](op.arg)
        need += pops - pushes
        if need <= 0:
            return count
    return (
        len(block.ops) if block.ops[-2:-1] and block.ops[-2].name == "Compare" else 0
    )  # the end of a chained one


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


def _nest(block: Block, handlers: "tuple[int, ...]", nodes: "dict[int, Block]", blocks: "dict[int, Block]", number: int,
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
