"""A graph of blocks made simpler: empty blocks passed by, chains joined, repeated loop tests made one."""

from typing import Any

from torchard.compiler.decompile.graph import Block, Graph
from torchard.compiler.decompile.ops import EFFECTS, Op


def thread(graph: Graph) -> None:
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


def merge(graph: Graph) -> None:
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
            if graph.matches and [op.name for op in block.ops] == ["Pop"]:
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


def unify_drops(graph: Graph) -> None:
    """Blocks that only drop the middle of a failed chained comparison exist once for each link: one will
    do."""
    known: "dict[Any, Block]" = {}
    for block in graph.blocks:
        if [op.name for op in block.ops[-2:-1]] != ["ChainLink"]:
            continue
        for way, follower in enumerate(block.succs):
            names = tuple((op.name, op.arg) for op in follower.ops)
            if names in ((("Pop", None),), (("Swap", 2), ("Pop", None))) and len(follower.succs) == 1:
                key = (names, follower.succs[0], follower.chain, follower.level, follower.height)
                block.succs[way] = known.setdefault(key, follower)
    graph.refresh()


_DROPS = {"Branch": ["Pop"], "BranchKeep": ["Swap", "Pop"]}


def share_ends(graph: Graph) -> None:
    """A failed link of a chained comparison may be followed by a copy of the end that the last link leads to,
    instead of a jump there: make it the jump again."""
    for block in list(graph.blocks):
        if [op.name for op in block.ops[-2:-1]] != ["ChainLink"] or len(block.succs) != 2:
            continue
        failed, drops = block.succs[1], _DROPS.get(block.ops[-1].name, [])
        size = len(drops)
        if failed.succs or failed.kind != "plain" or [op.name for op in failed.ops[:size]] != drops:
            continue
        end = _same_end(graph, block, failed, failed.ops[size:])
        if end is not None:
            block.succs[1] = _part(graph, failed, 0, size, [end])
    graph.refresh()


def _same_end(graph: Graph, block: Block, failed: Block, ops: "list[Op]") -> "Block | None":
    """The block behind the last link whose operations are ``ops``; cut off from that link if need be."""
    for one in _last_ways(block):
        if not ops or one.succs or one.chain != failed.chain or one.level != failed.level:
            continue
        if _same_ops(one.ops, ops):
            return one
        start = len(one.ops) - len(ops)
        if start > 0 and one.ops[start - 1].name == "Compare" and _same_ops(one.ops[start:], ops):
            tail = _part(graph, one, start, len(one.ops), [])
            tail.height = failed.height - 1
            one.ops, one.succs = one.ops[:start], [tail]
            return tail
    return None


def _part(graph: Graph, block: Block, start: int, end: int, succs: "list[Block]") -> Block:
    """A new block of some of another's operations."""
    part = Block(max(other.index for other in graph.blocks) + 1, block.start + start)
    part.ops, part.succs = block.ops[start:end], succs
    part.chain, part.level, part.height = block.chain, block.level, block.height
    graph.blocks.append(part)
    return part


def _last_ways(block: Block) -> "list[Block]":
    """Where the last link of the chained comparison leads; its own block if nothing branches there."""
    for _ in range(20):
        if [op.name for op in block.ops[-2:-1]] != ["ChainLink"]:
            break
        block = block.succs[0]
    return block.succs or [block]


def _same_ops(one: "list[Op]", two: "list[Op]") -> bool:
    if len(one) != len(two):
        return False
    return all(a.name == b.name and type(a.arg) is type(b.arg) and a.arg == b.arg for a, b in zip(one, two))


def derotate(graph: Graph) -> None:
    """``while`` loops repeat their test at the end of the body: make the repetition a jump to the first
    test."""
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
            merge(graph)


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
        thread(graph)
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
    """How many operations at the end compute the value that the block branches on; 0 if it is not computed
    here."""
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
