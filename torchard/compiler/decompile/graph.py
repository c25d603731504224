"""Basic blocks and the graph they form: order, dominators, loops."""

from typing import Any

from torchard.compiler.decompile.ops import MATCHING, Op
from torchard.compiler.decompile.slots import Unstructured


class Block:
    """Operations that run one after the other.

    ``chain`` holds the handlers that protect it (innermost first, compiler clean-up resolved), ``level`` how
    many exceptions are being handled, ``height`` how many values lie on the stack before it. ``kind`` is
    "plain", "with" (ends by entering a context) or "try" (no operations; successors: body and handler).
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
        self.matches = any(op.name in MATCHING for block in blocks for op in block.ops)
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
