"""Scaled dot-product attention kernels."""

from torch import Tensor

from torchard.prune.depgraph.algebra import Node, axis, prod
from torchard.prune.depgraph.ledger import Dims
from torchard.prune.depgraph.rules.factories import fixed_results
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten._scaled_dot_product_flash_attention_for_cpu", "aten._scaled_dot_product_flash_attention")
@rule("aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention")
@rule("aten._scaled_dot_product_fused_attention_overrideable", "aten.scaled_dot_product_attention")
def attention(op: Op) -> Outcome:
    """Queries and keys share their width, keys and values the sequence; heads may share keys in groups."""
    batch, heads, queries, width = op.dims("query")
    key_batch, key_heads, keys, key_width = op.dims("key")
    value_batch, value_heads, value_keys, value_width = op.dims("value")
    op.same(width, key_width)
    op.same(keys, value_keys)
    op.same(batch, key_batch)
    op.same(batch, value_batch)
    op.same(key_heads, value_heads)
    _share_heads(op, heads, key_heads)
    # A hidden softmax runs over the keys: no key may go, even where a parameter (register tokens) owns it.
    op.fix(keys, "sequence of an attention")
    for name in ("attn_mask", "attn_bias"):
        if op.has(name):
            _follow_mask(op, op.dims(name), [batch, heads, queries, keys])
    result: Dims = [batch, heads, queries, value_width]
    outcome: Outcome = result if isinstance(op.out, Tensor) else [result, *_rest(op)]
    op.cost(batch, heads, queries, width, keys)
    op.cost(batch, heads, queries, keys, value_width)
    scale = width if op.arguments.get("scale") is None else None
    op.statistic([width], outcome, scale=scale)
    return outcome


def _share_heads(op: Op, heads: Node, key_heads: Node) -> None:
    if heads.size == key_heads.size:
        op.same(heads, key_heads)
    else:
        op.same(heads, prod(key_heads, axis(heads.size // key_heads.size)))


def _follow_mask(op: Op, mask: Dims, scores: Dims) -> None:
    for one, other in zip(reversed(mask), reversed(scores)):
        if one.size == other.size:
            op.same(one, other)


def _rest(op: Op) -> list[Dims | None]:
    results = fixed_results(op)
    return list(results[1:])  # type: ignore[arg-type]


@rule("aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd")
def fused(op: Op) -> Outcome:
    """Opaque kernels, switched off while tracing; frozen should they appear all the same."""
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node, "an opaque attention kernel")
    return fixed_results(op)
