"""Normalisation layers."""

from torch import Tensor

from torchard.prune.depgraph.algebra import Fixed, Node, peel
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten._native_batch_norm_legit_no_training")
@rule("aten._native_batch_norm_legit_functional", "aten._batch_norm_with_update", "aten.cudnn_batch_norm")
@rule("aten._batch_norm_no_update", "aten.batch_norm", "aten.miopen_batch_norm")
def batch_norm(op: Op) -> Outcome:
    """Affine and running statistics share the channels; statistics of the batch are over all else."""
    dims = op.dims("input")
    channels = dims[1] if len(dims) > 1 else dims[0]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.has(name):
            op.same(channels, op.dims(name)[0])
    op.ledger.mark(op.arguments.get("weight"), "norm")
    op.ledger.mark(op.arguments.get("bias"), "bias")
    outcome = (
        [dims, *(_along(other, channels) for other in op.out[1:])] if not isinstance(op.out, Tensor) else dims
    )
    if op.arguments.get("training", True) and "no_training" not in op.name:
        op.statistic([node for place, node in enumerate(dims) if place != 1], outcome)
    return outcome


def _along(tensor: Tensor, channels: Node) -> Dims:
    if tensor.dim() == 1 and tensor.shape[0] == channels.size:
        return [channels]
    return fixed_dims(tensor.shape)


@rule("aten.native_layer_norm", "aten._fused_rms_norm", "aten.rms_norm", "aten.layer_norm")
def layer_norm(op: Op) -> Outcome:
    """Statistics over the last dimensions, whose affine parameters have their shape."""
    dims = op.dims("input")
    count = len(op["normalized_shape"])
    for name, role in (("weight", "norm"), ("bias", "bias")):
        if op.has(name):
            op.ledger.mark(op[name], role)
            for one, other in zip(dims[-count:], op.dims(name)):
                op.same(one, other)
    if isinstance(op.out, Tensor):
        op.statistic(dims[-count:], dims)
        return dims
    outcome = [dims, *(_reduced(dims, other) for other in op.out[1:])]
    op.statistic(dims[-count:], outcome)
    return outcome


def _reduced(dims: Dims, statistic: Tensor) -> Dims:
    return [node if node.size == size else Fixed(size) for node, size in zip(dims, statistic.shape)]


@rule("aten.native_group_norm")
def group_norm(op: Op) -> Outcome:
    """Channels are (group, c); each group keeps an equal share."""
    dims = op.dims("input")
    channels = dims[1]
    for name, role in (("weight", "norm"), ("bias", "bias")):
        if op.has(name):
            op.ledger.mark(op[name], role)
            op.same(channels, op.dims(name)[0])
    groups, inner = peel(channels, channels.size // op["group"])
    op.fix(groups, "groups of a normalisation")
    outcome: list[Dims] = [dims, *(fixed_dims(other.shape) for other in op.out[1:])]
    op.statistic([inner, *dims[2:]], outcome)
    return outcome


@rule("aten.local_response_norm")
def response_norm(op: Op) -> Outcome:
    dims = op.dims("input")
    op.fix(dims[1], "neighbouring channels are compared")
    return dims
