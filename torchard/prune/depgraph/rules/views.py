"""Operations that move, merge, split, repeat or lay dimensions end to end."""

from collections.abc import Sequence

from torch import Tensor

from torchard.prune.depgraph.algebra import Fixed, Node, axis, concat, cut, peel, prod
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias", "aten.view_copy")
@rule("aten._reshape_copy", "aten.unflatten", "aten.flatten")
def view(op: Op) -> Outcome:
    """Merge and split dimensions in row-major order."""
    if "dtype" in op:
        dims = op.dims("self")
        return dims if op["self"].element_size() == op.out.element_size() else [*dims[:-1], op.fix(dims[-1])]
    return reshape(op.dims("self"), op.out.shape)


def reshape(dims: Dims, shape: Sequence[int]) -> Dims:
    """Return ``dims`` in a new shape: blocks of equal size are merged, then peeled from the right."""
    if any(size == 0 for size in shape):
        return fixed_dims(shape)
    result: Dims = []
    for block, sizes in _blocks(dims, shape):
        merged, peeled = prod(*block), []
        for size in reversed(sizes):
            merged, fast = peel(merged, size)
            peeled.append(fast)
        result += reversed(peeled)
    return result


def _blocks(dims: Dims, shape: Sequence[int]) -> list[tuple[Dims, list[int]]]:
    """Cut both shapes wherever the products of their leading sizes agree."""
    blocks: list[tuple[Dims, list[int]]] = []
    left, right = list(dims), list(shape)
    while left or right:
        block, sizes = left[:1], right[:1]
        del left[:1], right[:1]
        have, want = _size(block), _count(sizes)
        while have != want:
            if have < want:
                block.append(left.pop(0))
            else:
                sizes.append(right.pop(0))
            have, want = _size(block), _count(sizes)
        blocks.append((block, sizes))
    return blocks


def _size(block: Dims) -> int:
    return _count([node.size for node in block])


def _count(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


@rule("aten.t", "aten.t_", "aten.numpy_T", "aten.mT", "aten.t_copy")
def t(op: Op) -> Outcome:
    return list(reversed(op.dims("self")))


@rule("aten.permute", "aten.permute_copy")
def permute(op: Op) -> Outcome:
    dims = op.dims("self")
    return [dims[place] for place in op["dims"]]


@rule("aten.transpose", "aten.transpose_", "aten.swapaxes", "aten.transpose_copy")
def transpose(op: Op) -> Outcome:
    dims = op.dims("self")
    if dims:
        first, second = op.dim("dim0"), op.dim("dim1")
        dims[first], dims[second] = dims[second], dims[first]
    return dims


@rule("aten.movedim")
def movedim(op: Op) -> Outcome:
    dims, rank = op.dims("self"), op["self"].dim()
    targets = [place % rank for place in op["destination"]]
    moved = {place % rank: node for place, node in zip(targets, (dims[p] for p in op["source"]))}
    sources = {place % rank for place in op["source"]}
    rest = iter(node for place, node in enumerate(dims) if place not in sources)
    return [moved[place] if place in moved else next(rest) for place in range(rank)]


@rule("aten.unsqueeze", "aten.unsqueeze_", "aten.unsqueeze_copy")
def unsqueeze(op: Op) -> Outcome:
    dims = op.dims("self")
    dims.insert(op.dim(rank=len(dims) + 1), Fixed(1))
    return dims


@rule("aten.squeeze", "aten.squeeze_", "aten.squeeze_copy")
def squeeze(op: Op) -> Outcome:
    dims = op.dims("self")
    named = op["dim"] if "dim" in op else range(len(dims))
    places = {place % max(len(dims), 1) for place in ([named] if isinstance(named, int) else named)}
    return [node for place, node in enumerate(dims) if place not in places or node.size != 1]


@rule("aten.cat", "aten.concat", "aten._cat")
def cat(op: Op) -> Outcome:
    """Lay end to end; the other dimensions lose the same elements."""
    tensors = [op.ledger.dims(tensor) for tensor in op["tensors"] if tensor.shape != (0,)]
    if not tensors:
        return fixed_dims((0,))
    at = op["dim"] % len(tensors[0])
    for dims in tensors[1:]:
        for place, node in enumerate(dims):
            if place != at:
                op.same(tensors[0][place], node)
    result = list(tensors[0])
    result[at] = concat(*(dims[at] for dims in tensors))
    return result


@rule("aten.stack")
def stack(op: Op) -> Outcome:
    """A new fixed dimension; the others lose the same elements."""
    tensors = [op.ledger.dims(tensor) for tensor in op["tensors"]]
    for dims in tensors[1:]:
        for one, other in zip(tensors[0], dims):
            op.same(one, other)
    result = list(tensors[0])
    result.insert(op["dim"] % (len(result) + 1), Fixed(len(tensors)))
    return result


@rule("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes")
@rule("aten.chunk", "aten.unsafe_chunk", "aten.tensor_split", "aten.split_copy")
@rule("aten.split_with_sizes_copy", "aten.hsplit", "aten.vsplit")
def split(op: Op) -> Outcome:
    """Cut into the sizes of the results."""
    dims = op.dims("self")
    at = op.dim()
    rest = dims[at]
    results: list[Dims] = []
    for part in op.out:
        piece, rest = cut(rest, part.shape[at])
        results.append([*dims[:at], piece, *dims[at + 1 :]])
    return results


@rule("aten.slice", "aten.slice_copy")
def slice_(op: Op) -> Outcome:
    """A stretch is cut out; steps above one tell elements apart."""
    dims, at = op.dims("self"), op.dim()
    dims[at] = _stretch(op, dims[at], op["start"], op["end"], op["step"], op.out.shape[at])
    return dims


@rule("aten.narrow", "aten.narrow_copy")
def narrow(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    dims[at] = _stretch(op, dims[at], int(op["start"]), None, 1, op["length"])
    return dims


def _stretch(op: Op, node: Node, start: int | None, end: int | None, step: int, size: int) -> Node:
    if size == node.size:
        return node
    if step != 1:
        op.fix(node, "a slice with a step")
        return Fixed(size)
    begin = min(max(0 if start is None else start + node.size * (start < 0), 0), node.size)
    return cut(cut(node, begin)[1], size)[0]


@rule("aten.slice_scatter")
def slice_scatter(op: Op) -> Outcome:
    """Write a stretch: it loses what the source loses."""
    dims, at = op.dims("self"), op.dim()
    source = op.dims("src")
    stretch = _stretch(op, dims[at], op["start"], op["end"], op["step"], source[at].size)
    for place, node in enumerate(source):
        op.same(stretch if place == at else dims[place], node)
    return dims


@rule("aten.select_scatter")
def select_scatter(op: Op) -> Outcome:
    """Write one element of a dimension, which is thereby fixed."""
    dims, at = op.dims("self"), op.dim()
    op.fix(dims[at], "one element is addressed")
    for one, other in zip([*dims[:at], *dims[at + 1 :]], op.dims("src")):
        op.same(one, other)
    return dims


@rule("aten.expand", "aten.expand_copy", "aten.broadcast_to")
def expand(op: Op) -> Outcome:
    """New dimensions hold equal values, so any part of them is right: free axes no parameter owns."""
    dims = op.dims("self")
    new = len(op.out.shape) - len(dims)
    old: list[Node | None] = [None] * new + list(dims)
    return [
        node if node is not None and node.size == size else axis(size)
        for node, size in zip(old, op.out.shape)
    ]


@rule("aten.repeat")
def repeat(op: Op) -> Outcome:
    """Copies end to end: (copies, d)."""
    dims = op.dims("self")
    old: Dims = [Fixed(1)] * (len(op.out.shape) - len(dims)) + dims
    return [
        prod(axis(size // node.size) if node.size else Fixed(0), node)
        for node, size in zip(old, op.out.shape)
    ]


@rule("aten.repeat_interleave")
def repeat_interleave(op: Op) -> Outcome:
    """Each element several times: (d, copies)."""
    if op["self"].dim() == 0 or "repeats" not in op or isinstance(op["repeats"], Tensor) or "dim" not in op:
        return _all_fixed(op)
    dims = op.dims("self")
    at = op.dim()
    dims[at] = prod(dims[at], axis(op["repeats"]))
    return dims


def _all_fixed(op: Op) -> Dims:
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node)
    return fixed_dims(op.out.shape)


@rule("aten.as_strided", "aten.as_strided_")
def as_strided(op: Op) -> Outcome:
    """Only the identity can be followed."""
    source = op["self"]
    if list(op["size"]) == list(source.shape) and list(op["stride"]) == list(source.stride()):
        return op.dims("self")
    return _all_fixed(op)


@rule("aten.unfold")
def unfold(op: Op) -> Outcome:
    """Windows of one dimension, which is thereby fixed."""
    dims = op.dims("self")
    at = op.dim("dimension")
    op.fix(dims[at], "a window slides over it")
    dims[at] = Fixed(op.out.shape[at])
    return [*dims, Fixed(op["size"])]


@rule("aten.diagonal", "aten.diagonal_copy", "aten.diag_embed", "aten.diag")
def diagonal(op: Op) -> Outcome:
    return _all_fixed(op)
