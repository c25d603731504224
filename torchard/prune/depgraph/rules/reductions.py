"""Operations that summarise along dimensions, or relate each element to the others of its row."""

from torch import Tensor

from torchard.prune.depgraph.algebra import Fixed
from torchard.prune.depgraph.ledger import Dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.prod", "aten.nansum")
@rule("aten.logsumexp", "aten.any", "aten.all", "aten.argmax", "aten.argmin", "aten.max", "aten.min")
@rule("aten.var_mean", "aten.std_mean", "aten.norm", "aten.linalg_vector_norm", "aten.aminmax")
@rule("aten.median", "aten.nanmedian", "aten.count_nonzero", "aten.nanmean")
def reduce(op: Op) -> Outcome:
    """The named dimensions are dropped or become one; two tensors (``max``) are met pointwise."""
    if op.has("other"):
        from torchard.prune.depgraph.rules.pointwise import pointwise

        return pointwise(op)
    dims = op.dims("self")
    named = op.arguments.get("dim")
    places = _places(named, len(dims))
    keepdim = bool(op.arguments.get("keepdim", False))
    result = [
        Fixed(1) if place in places else node
        for place, node in enumerate(dims)
        if keepdim or place not in places
    ]
    if op.name in ("aten.argmax", "aten.argmin", "aten.median"):
        for place in places:
            op.fix(dims[place], "places along it are numbered")
    outcome: Outcome = result if isinstance(op.out, Tensor) else [list(result) for _ in op.out]
    op.statistic([dims[place] for place in places], outcome)
    return outcome


def _places(named: int | list[int] | None, rank: int) -> set[int]:
    if rank == 0:
        return set()
    if named is None or named == []:
        return set(range(rank))
    return {place % rank for place in ([named] if isinstance(named, int) else named)}


@rule("aten._softmax", "aten._log_softmax", "aten.softmax", "aten.log_softmax", "aten._safe_softmax")
@rule("aten._softmax_backward_data", "aten.softmin")
def softmax(op: Op) -> Outcome:
    """Shape stays; the row's sum depends on what is in it."""
    dims = op.dims("self")
    if dims:
        op.statistic([dims[op.dim()]], dims)
    return dims


@rule("aten.renorm", "aten._weight_norm_interface", "aten._weight_norm")
def weight_norm(op: Op) -> Outcome:
    """``g · v / ‖v‖``, the norm being over all dimensions but one."""
    if "v" not in op:
        dims = op.dims("self")
        op.statistic([node for place, node in enumerate(dims) if place != op.dim()], dims)
        return dims
    dims, scale = op.dims("v"), op.dims("g")
    at = op["dim"] % len(dims)
    meeting = scale[at] if len(scale) > 1 else scale[0]
    op.same(dims[at], meeting)
    outcome: Outcome = dims if isinstance(op.out, Tensor) else [dims, list(scale)]
    # Over all of them: a row set to zero would be divided by its norm.
    op.statistic(dims, outcome)
    return outcome


@rule("aten._cdist_forward", "aten._euclidean_dist", "aten.cdist")
def distances(op: Op) -> Outcome:
    """All pairs of rows of two matrices."""
    *batch, rows, features = op.dims("x1")
    *other_batch, columns, other_features = op.dims("x2")
    op.same(features, other_features)
    for one, other in zip(reversed(batch), reversed(other_batch)):
        if one.size == other.size:
            op.same(one, other)
    widest: Dims = batch if len(batch) >= len(other_batch) else other_batch
    result = [*widest, rows, columns]
    op.statistic([features], result)
    return result


@rule("aten.cosine_similarity", "aten.pairwise_distance")
def similarity(op: Op) -> Outcome:
    """Rows are compared over one dimension."""
    from torchard.prune.depgraph.rules.pointwise import broadcast

    tensors = [op["x1"], op["x2"]]
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors))]
    dims = broadcast(op, tensors, shape)
    over = dims.pop(op["dim"] % len(dims) if "dim" in op else -1)
    op.statistic([over], dims)
    return dims
