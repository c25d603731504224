"""Operations that address elements: the addressed dimension is fixed, the others follow."""

from torch import Tensor, uint8
from torch import bool as torch_bool

from torchard.prune.depgraph.algebra import Fixed
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.factories import fixed_results
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule

_ADDRESSED = "its elements are addressed one by one"


@rule("aten.select", "aten.select_copy")
def select(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    op.fix(dims.pop(at), _ADDRESSED)
    return dims


@rule("aten.unbind", "aten.unbind_copy")
def unbind(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    op.fix(dims.pop(at), _ADDRESSED)
    return [list(dims) for _ in op.out]


@rule("aten.index_select", "aten.roll", "aten.flip", "aten.cumsum", "aten.cumprod", "aten.logcumsumexp")
@rule("aten.tril", "aten.triu", "aten.tril_", "aten.triu_", "aten.rot90", "aten.cumsum_", "aten._index_put")
def along_one_dimension(op: Op) -> Outcome:
    """The dimension along which elements are told apart is fixed, and may change its size."""
    dims = op.dims("self")
    for at in _named_dimensions(op, len(dims)):
        op.fix(dims[at], _ADDRESSED)
        dims[at] = Fixed(op.out.shape[at])
    return dims


def _named_dimensions(op: Op, rank: int) -> set[int]:
    if op.name.removeprefix("aten.").startswith("tri"):
        return {rank - 2, rank - 1}
    named = op["dims"] if "dims" in op else op["dim"]
    named = [named] if isinstance(named, int) else list(named)
    return {place % max(rank, 1) for place in named or range(rank)} if rank else set()


@rule("aten.topk", "aten.sort", "aten.kthvalue", "aten.mode", "aten.cummax", "aten.cummin", "aten.msort")
def ordered(op: Op) -> Outcome:
    """Values and places along one dimension."""
    if op["self"].dim() == 0:
        return [[], []]
    dims, at = op.dims("self"), op.dim() if "dim" in op else 0
    op.fix(dims[at], _ADDRESSED)
    shape = op.out[0].shape
    if len(shape) < len(dims):
        dims.pop(at)
    else:
        dims[at] = Fixed(shape[at])
    return [dims, dims]


@rule("aten.argsort")
def argsort(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    op.fix(dims[at], _ADDRESSED)
    return dims


@rule("aten.gather", "aten.take_along_dim")
def gather(op: Op) -> Outcome:
    """The index's other dimensions meet those of the source where they are as large."""
    dims, at = op.dims("self"), op.dim()
    index = op.dims("index" if "index" in op else "indices")
    op.fix(dims[at], _ADDRESSED)
    for place, (one, other) in enumerate(zip(dims, index)):
        if place == at:
            continue
        if one.size == other.size:
            op.same(one, other)
        else:
            op.fix(one, _ADDRESSED)
            op.fix(other, _ADDRESSED)
    return index


@rule("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_", "aten.scatter_reduce")
@rule("aten.scatter_reduce_")
def scatter(op: Op) -> Outcome:
    """The addressed dimension is fixed; the others are those of index and source."""
    dims, at = op.dims("self"), op.dim()
    others = [op.dims(name) for name in ("index", "src") if op.has(name)]
    for nodes in (dims, *others):
        op.fix(nodes[at], _ADDRESSED)
    for other in others:
        for place, (one, node) in enumerate(zip(dims, other)):
            if place != at and one.size == node.size:
                op.same(one, node)
            elif place != at:
                op.fix(one, _ADDRESSED)
                op.fix(node, _ADDRESSED)
    return dims


@rule("aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_", "aten.index_reduce_")
@rule("aten.index_reduce")
def index_add(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    source = op.dims("source")
    op.fix(dims[at], _ADDRESSED)
    op.fix(source[at], _ADDRESSED)
    for place, (one, other) in enumerate(zip(dims, source)):
        if place != at:
            op.same(one, other)
    return dims


@rule("aten.index_fill", "aten.index_fill_")
def index_fill(op: Op) -> Outcome:
    dims, at = op.dims("self"), op.dim()
    op.fix(dims[at], _ADDRESSED)
    return dims


@rule("aten.index", "aten._unsafe_index")
def index(op: Op) -> Outcome:
    """Advanced indexing: addressed dimensions go where the indices' own broadcast shape comes in."""
    dims, indices = op.dims("self"), list(op["indices"])
    if any(entry is not None and entry.dtype in (torch_bool, uint8) for entry in indices):
        return _masked(op, dims)
    places = [place for place, entry in enumerate(indices) if entry is not None]
    for place in places:
        op.fix(dims[place], _ADDRESSED)
    new = _index_shape(op, [indices[place] for place in places])
    kept = [node for place, node in enumerate(dims) if place not in places]
    adjacent = places == list(range(places[0], places[-1] + 1))
    at = places[0] if adjacent else 0
    return [*kept[:at], *new, *kept[at:]]


def _index_shape(op: Op, indices: list[Tensor]) -> Dims:
    for entry in indices:
        for node in op.ledger.dims(entry):
            op.fix(node, "an index")
    rank = max(entry.dim() for entry in indices)
    sizes = [
        max((e.shape[-place] for e in indices if e.dim() >= place), key=lambda n: (n != 1, n))
        for place in range(rank, 0, -1)
    ]
    return fixed_dims(sizes)


def _masked(op: Op, dims: Dims) -> Dims:
    """Boolean masks choose by value; only what stands behind the masked dimensions can be followed."""
    indices = op["indices"]
    if indices[0] is not None and all(entry is None for entry in indices[1:]):
        rank = indices[0].dim()
        for node in (*dims[:rank], *op.ledger.dims(indices[0])):
            op.fix(node, "a mask chooses by value")
        return [Fixed(op.out.shape[0]), *dims[rank:]]
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node, "a mask chooses by value")
    return fixed_dims(op.out.shape)


@rule("aten.index_put", "aten.index_put_", "aten._index_put_impl_")
def index_put(op: Op) -> Outcome:
    """Addressed dimensions are fixed, the others are those of the values, aligned from the right."""
    dims, indices, values = op.dims("self"), list(op["indices"]), op.dims("values")
    addressed: set[int] = set()
    place = 0
    for entry in indices:
        span = entry.dim() if entry is not None and entry.dtype in (torch_bool, uint8) else 1
        addressed |= set(range(place, place + span)) if entry is not None else set()
        place += span
        if entry is not None:
            for node in op.ledger.dims(entry):
                op.fix(node, "an index")
    for at in addressed:
        op.fix(dims[at], _ADDRESSED)
    leading = addressed == set(range(len(addressed)))
    behind = dims[len(addressed) :] if leading else []
    if not leading:
        for node in dims:
            op.fix(node, _ADDRESSED)
    for step, node in enumerate(reversed(values), start=1):
        if step <= len(behind) and node.size == behind[-step].size:
            op.same(behind[-step], node)
        elif node.size > 1:
            op.fix(node, _ADDRESSED)
    return dims


@rule("aten.masked_select")
def masked_select(op: Op) -> Outcome:
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node, "a mask chooses by value")
    return fixed_results(op)


@rule("aten.masked_scatter", "aten.masked_scatter_", "aten.put", "aten.take")
def by_place(op: Op) -> Outcome:
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node, _ADDRESSED)
    return fixed_results(op)


@rule("aten.embedding")
def embedding(op: Op) -> Outcome:
    """Rows are addressed; columns are features."""
    rows, columns = op.dims("weight")
    op.fix(rows, "rows of an embedding are addressed by its index")
    return [*op.dims("indices"), columns]


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(op: Op) -> Outcome:
    rows, columns = op.dims("weight")
    op.fix(rows, "rows of an embedding are addressed by its index")
    first, *rest = op.out
    others: list[Dims] = [fixed_dims(other.shape) for other in rest]
    return [[Fixed(first.shape[0]), columns], *others]


@rule("aten.one_hot")
def one_hot(op: Op) -> Outcome:
    return [*op.dims("self"), Fixed(op.out.shape[-1])]
