"""Operations that treat every element alike: arithmetic, activations, copies."""

from collections.abc import Sequence

from torch import Tensor

from torchard.prune.depgraph.algebra import Fixed, Node, cut, peel, prod
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("pointwise")
@rule("aten.hardswish", "aten.hardswish_", "aten._prelu_kernel", "aten.where", "aten.copy_", "aten.copy")
@rule("aten.masked_fill", "aten.masked_fill_", "aten.fill", "aten.fill_", "aten.zero", "aten.zero_")
@rule("aten.clone", "aten._to_copy", "aten.detach", "aten.detach_", "aten.alias", "aten.lift_fresh")
@rule("aten.lift_fresh_copy", "aten.lift", "aten.contiguous", "aten.dropout", "aten.native_dropout")
@rule("aten._conj", "aten._neg_view", "aten.resolve_conj", "aten.celu_", "aten.selu_", "aten.rrelu")
@rule(
    "aten.hardtanh_", "aten.elu_", "aten.silu_", "aten.mish_", "aten.threshold_", "aten.relu6", "aten.complex"
)
@rule("aten.rrelu_with_noise", "aten.rrelu_with_noise_functional", "aten.gelu_", "aten.logical_not_")
@rule("aten.polar", "aten.real", "aten.imag", "aten.requires_grad_", "aten.set_data", "aten.nan_to_num_")
@rule(
    "aten.complex",
    "aten.angle",
    "aten.isclose",
    "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten.pin_memory",
)
def pointwise(op: Op) -> Outcome:
    """Align from the right; dimensions that are not broadcast lose the same elements."""
    results = op.out if isinstance(op.out, (tuple, list)) else [op.out]
    aligned = [broadcast(op, op.operands, result.shape) for result in results if isinstance(result, Tensor)]
    return aligned[0] if isinstance(op.out, Tensor) else aligned


def broadcast(op: Op, tensors: Sequence[Tensor], shape: Sequence[int]) -> Dims:
    """Unify the dimensions of ``tensors`` that meet in each place of the broadcast ``shape``."""
    return [
        _meet(op, _dims_at(op, tensors, len(shape) - place, size), size) for place, size in enumerate(shape)
    ]


def _dims_at(op: Op, tensors: Sequence[Tensor], from_right: int, size: int) -> list[Node]:
    met = [op.ledger.dims(tensor) for tensor in tensors if tensor.dim() >= from_right]
    return [dims[-from_right] for dims in met if dims[-from_right].size == size]


def _meet(op: Op, nodes: list[Node], size: int) -> Node:
    if not nodes or size == 1:
        return Fixed(size)
    for node in nodes[1:]:
        op.same(nodes[0], node)
    return nodes[0]


@rule("aten.glu")
def glu(op: Op) -> Outcome:
    """Two halves multiplied."""
    dims, at = op.dims("self"), op.dim()
    first, second = cut(dims[at], dims[at].size // 2)
    op.same(first, second)
    dims[at] = first
    return dims


@rule("aten.view_as_real", "aten.view_as_real_copy")
def view_as_real(op: Op) -> Outcome:
    """A complex number becomes a last dimension of two."""
    return [*op.dims("self"), Fixed(2)]


@rule("aten.view_as_complex", "aten.view_as_complex_copy")
def view_as_complex(op: Op) -> Outcome:
    """A last dimension of two becomes a complex number."""
    *dims, pair = op.dims("self")
    op.fix(pair)
    return dims


@rule("aten.pixel_shuffle")
def pixel_shuffle(op: Op) -> Outcome:
    """Channels carry the sub-pixels as their fast part."""
    *batch, channels, _, _ = op.dims("self")
    slow, fast = peel(channels, op["upscale_factor"] ** 2)
    op.fix(fast, "sub-pixels")
    return [*batch, slow, *fixed_dims(op.out.shape[-2:])]


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(op: Op) -> Outcome:
    """Sub-pixels become the fast part of the channels."""
    *batch, channels, _, _ = op.dims("self")
    merged = prod(channels, Fixed(op["downscale_factor"] ** 2))
    return [*batch, merged, *fixed_dims(op.out.shape[-2:])]


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(op: Op) -> Outcome:
    """Channels (groups, rest) become (rest, groups)."""
    batch, channels, *space = op.dims("self")
    slow, fast = peel(channels, channels.size // op["groups"])
    return [batch, prod(fast, slow), *space]
