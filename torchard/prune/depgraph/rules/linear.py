"""Matrix products: what is contracted must lose the same elements on both sides."""

from torchard.prune.depgraph.algebra import Node
from torchard.prune.depgraph.ledger import Dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.mm")
def mm(op: Op) -> Outcome:
    return _product(op, "self", "mat2")


@rule("aten.bmm")
def bmm(op: Op) -> Outcome:
    return _product(op, "self", "mat2")


@rule("aten.addmm", "aten.addmm_", "aten._addmm_activation")
def addmm(op: Op) -> Outcome:
    return _add(op, _product(op, "mat1", "mat2"))


@rule("aten.baddbmm", "aten.baddbmm_")
def baddbmm(op: Op) -> Outcome:
    return _add(op, _product(op, "batch1", "batch2"))


@rule("aten.addbmm", "aten.addbmm_")
def addbmm(op: Op) -> Outcome:
    _, *dims = _product(op, "batch1", "batch2")
    return _add(op, dims)


@rule("aten.mv")
def mv(op: Op) -> Outcome:
    (rows, columns), (entries,) = op.dims("self"), op.dims("vec")
    _contract(op, columns, entries, [rows])
    return [rows]


@rule("aten.addmv", "aten.addmv_")
def addmv(op: Op) -> Outcome:
    (rows, columns), (entries,) = op.dims("mat"), op.dims("vec")
    _contract(op, columns, entries, [rows])
    return _add(op, [rows])


@rule("aten.dot", "aten.vdot")
def dot(op: Op) -> Outcome:
    (left,), (right,) = op.dims("self"), op.dims("other" if "other" in op else "tensor")
    _contract(op, left, right, [])
    return []


@rule("aten.addr")
def addr(op: Op) -> Outcome:
    return _add(op, [*op.dims("vec1"), *op.dims("vec2")])


@rule("aten.linear")
def linear(op: Op) -> Outcome:
    *batch, inner = op.dims("input")
    out, columns = op.dims("weight")
    _contract(op, inner, columns, [*batch, out])
    if op.has("bias"):
        op.ledger.mark(op["bias"], "bias")
        op.same(out, op.dims("bias")[0])
    op.cost(*batch, inner, out)
    return [*batch, out]


@rule("aten._trilinear")
def trilinear(op: Op) -> Outcome:
    """Three operands, expanded to a common space, multiplied, and summed over some dimensions."""
    rank = op["i1"].dim() + len(op["expand1"])
    places: list[list[Node]] = [[] for _ in range(rank)]
    for operand in ("1", "2", "3"):
        remaining = iter(op.dims(f"i{operand}"))
        expanded = {place % rank for place in op[f"expand{operand}"]}
        for place in range(rank):
            if place not in expanded:
                places[place].append(next(remaining))
    merged: Dims = []
    for nodes in places:
        widest = max(nodes, key=lambda node: node.size)
        for node in nodes:
            if node.size == widest.size:
                op.same(widest, node)
        merged.append(widest)
    summed = {place % rank for place in op["sumdim"]}
    result = [node for place, node in enumerate(merged) if place not in summed]
    op.contraction([merged[place] for place in summed], result)
    return result


def _product(op: Op, left: str, right: str) -> Dims:
    *batch, rows, inner = op.dims(left)
    *other_batch, other_inner, columns = op.dims(right)
    for one, other in zip(batch, other_batch):
        op.same(one, other)
    result = [*batch, rows, columns]
    _contract(op, inner, other_inner, result)
    op.cost(*batch, rows, inner, columns)
    return result


def _contract(op: Op, left: Node, right: Node, result: Dims) -> None:
    op.same(left, right)
    op.contraction([left], result)


def _add(op: Op, result: Dims) -> Dims:
    """Add ``self``, broadcast from the right."""
    addend = op.dims("self")
    op.ledger.mark(op["self"], "bias")
    for one, other in zip(reversed(addend), reversed(result)):
        if one.size == other.size:
            op.same(one, other)
    return result
