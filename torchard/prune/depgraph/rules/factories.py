"""Operations that make tensors, and those that make nothing to follow."""

from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchard.prune.depgraph.algebra import axis
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.zeros", "aten.ones", "aten.full", "aten.empty", "aten.new_zeros", "aten.new_ones")
@rule("aten.new_full", "aten.new_empty", "aten.empty_strided", "aten.new_empty_strided")
@rule("aten.scalar_tensor", "aten.empty_permuted")
def constant(op: Op) -> Outcome:
    """All entries alike (or not yet written): any part is right, so every dimension is a free axis."""
    return [axis(size) for size in op.out.shape]


@rule("aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like")
def constant_like(op: Op) -> Outcome:
    """As large as the model it was made after."""
    return op.dims("self")


@rule("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.randn", "aten.rand", "aten.randint")
@rule("aten.randperm", "aten.normal", "aten.tril_indices", "aten.triu_indices", "aten.hann_window")
@rule("aten.range", "aten.bernoulli", "aten.rand_like", "aten.randn_like", "aten.randint_like")
@rule("aten.nonzero", "aten.unique_dim", "aten._unique2", "aten.unique_consecutive", "aten.multinomial")
@rule("aten.bincount", "aten.histc", "aten.bucketize", "aten.searchsorted", "torchvision.nms")
def told_apart(op: Op) -> Outcome:
    """Every element of the result differs from its neighbours, and so do those it was made from."""
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node)
    return fixed_results(op)


@rule("aten.uniform_", "aten.normal_", "aten.bernoulli_", "aten.exponential_", "aten.random_")
def noise(op: Op) -> Outcome:
    """In training, noise (dropout's) is as good for any part; else its elements are told apart."""
    return op.dims("self") if op.ledger.training else told_apart(op)


@rule("aten._local_scalar_dense", "aten.is_same_size", "aten.equal", "aten.sym_size", "aten.sym_numel")
@rule("aten.item", "aten.is_nonzero", "aten._assert_async", "aten._assert_scalar", "aten.sym_stride")
@rule(
    "aten._assert_tensor_metadata", "aten.is_contiguous", "aten.sym_is_contiguous", "aten.sym_storage_offset"
)
@rule("prim.device", "aten._has_compatible_shallow_copy_type", "aten.is_floating_point", "prim.layout")
def no_tensor(op: Op) -> Outcome:
    """The result is a number or nothing."""
    return None


def fixed_results(op: Op) -> Dims | list[Dims | None]:
    """Every dimension of every result is fixed."""
    if isinstance(op.out, Tensor):
        return fixed_dims(op.out.shape)
    return [fixed_dims(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in tree_leaves(op.out)]
