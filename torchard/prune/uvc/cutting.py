"""Carry out a decision: as zeros in a model of the same size, or as a smaller model."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import Attention
from torch import Tensor, nn

from torchard.prune.depgraph import apply, plan_for, trace
from torchard.prune.uvc.decision import UVCDecision
from torchard.prune.uvc.gates import strip
from torchard.prune.uvc.structure import (
    Adapter,
    BlockParts,
    Skipped,
    check_value_widths,
    example_for,
    parts_of,
    removable,
    sizes_of,
)


@torch.no_grad()
def mask(model: nn.Module, decision: UVCDecision, *, adapter: Adapter | None = None) -> nn.Module:
    """Return a copy of ``model`` in which all that ``decision`` removes is zero, and skipped blocks are gone.

    Raises:
        ValueError: if the decision is for a model of other sizes.
        UnsupportedModel: naming the module that cannot be cut.
    """
    masked, parts = _copied(model, decision, adapter)
    for number, block in enumerate(parts):
        spec = sizes_of([block])
        gone = ~_kept_columns(decision, number, spec.heads, spec.head_width)
        block.proj.weight[:, gone] = 0
        block.fc2.weight[:, list(decision.units[number])] = 0
    _skip(masked, parts, decision)
    return masked


def export(
    model: nn.Module, decision: UVCDecision, *, example: Tensor | None = None, adapter: Adapter | None = None
) -> nn.Module:
    """Return a smaller copy of ``model`` without what ``decision`` removes.

    Heads and MLP units go by a plan for :mod:`torchard.prune.depgraph`, skipped blocks are replaced by
    :class:`Skipped`, and where value dimensions go attention becomes a :class:`NarrowAttention`. Queries and
    keys keep their width, so the scale of attention stays.

    Raises:
        ValueError: if the decision is for a model of other sizes.
        UnsupportedModel: naming the module that cannot be cut.
    """
    small, parts = _copied(model, decision, adapter)
    spec = sizes_of(parts)
    if any(any(heads) for heads in decision.dims):
        check_value_widths(parts)
    _skip(small, parts, decision)
    kept = [number for number in range(len(parts)) if number not in decision.skipped]
    if any(decision.heads[number] or decision.units[number] for number in kept):
        graph = trace(small, example_for(small) if example is None else example[:1])
        found = removable(graph, [parts[number] for number in kept], spec)
        removed: dict[str, tuple[int, ...]] = {}
        for number, (heads, units) in zip(kept, found):
            removed |= {heads.id: decision.heads[number]} if heads is not None else {}
            removed |= {units.id: decision.units[number]} if units is not None else {}
        apply(small, plan_for(graph, removed))
    for number in kept:
        if any(decision.dims[number]):
            name = (adapter or Adapter()).attn
            narrow = _narrowed(parts[number].attn, decision, number, spec.head_width)
            small.set_submodule(f"{parts[number].name}.{name}", narrow)
    return small


class NarrowAttention(nn.Module):
    """Attention whose values are narrower than its queries and keys, each head's by as much as it says.

    Where heads differ, values are padded with zeros to the widest head for the product alone; ``qkv`` and
    ``proj`` hold what is left and nothing else. Takes the parts of timm's Attention.
    """

    def __init__(self, attn: Attention, kept: Bool[Tensor, "h d"]) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = len(kept), attn.head_dim, attn.scale
        widths = kept.sum(dim=1).tolist()
        self.value_dim, self.value_width = sum(widths), max(widths)
        rows = torch.cat([torch.arange(2 * kept.numel()), 2 * kept.numel() + kept.flatten().nonzero()[:, 0]])
        self.qkv = _linear_part(attn.qkv, rows, 0)
        self.proj = _linear_part(attn.proj, kept.flatten().nonzero()[:, 0], 1)
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.attn_drop, self.proj_drop = attn.attn_drop, attn.proj_drop
        filled = torch.arange(self.value_width) < torch.tensor(widths)[:, None]
        places = None if bool(filled.all()) else filled.flatten().nonzero()[:, 0].to(attn.qkv.weight.device)
        self.places: Tensor | None
        self.register_buffer("places", places, persistent=False)

    def forward(
        self, tokens: Float[Tensor, "b n e"], attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b n e"]:
        """Return what attention makes of ``tokens``."""
        batch, count, _ = tokens.shape
        inner = self.num_heads * self.head_dim
        q, k, v = self.qkv(tokens).split([inner, inner, self.value_dim], dim=-1)
        heads = F.scaled_dot_product_attention(
            self.q_norm(self._by_head(q)),
            self.k_norm(self._by_head(k)),
            self._by_head(self._padded(v)),
            attn_mask=attn_mask,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
        )
        joined = heads.transpose(1, 2).reshape(batch, count, self.num_heads * self.value_width)
        if self.places is not None:
            joined = joined.index_select(-1, self.places)
        return self.proj_drop(self.proj(joined))

    def _padded(self, values: Tensor) -> Tensor:
        if self.places is None:
            return values
        wide = values.new_zeros(*values.shape[:-1], self.num_heads * self.value_width)
        return wide.index_copy(-1, self.places, values)

    def _by_head(self, features: Tensor) -> Tensor:
        batch, count, width = features.shape
        return features.reshape(batch, count, self.num_heads, width // self.num_heads).transpose(1, 2)


def _copied(
    model: nn.Module, decision: UVCDecision, adapter: Adapter | None
) -> tuple[nn.Module, list[BlockParts]]:
    copied = copy.deepcopy(model)
    strip(copied)
    parts = parts_of(copied, adapter)
    decision.check(sizes_of(parts))
    return copied, parts


def _skip(model: nn.Module, parts: Sequence[BlockParts], decision: UVCDecision) -> None:
    for number in decision.skipped:
        name = parts[number].name
        model.set_submodule(name, Skipped().train(model.get_submodule(name).training))


def _kept_columns(decision: UVCDecision, number: int, heads: int, width: int) -> Tensor:
    kept = torch.ones(heads, width, dtype=torch.bool)
    for head, places in enumerate(decision.dims[number]):
        kept[head, list(places)] = False
    kept[list(decision.heads[number])] = False
    return kept.flatten()


def _narrowed(attn: Any, decision: UVCDecision, number: int, width: int) -> NarrowAttention:
    """From attention that has lost its heads already."""
    kept = _kept_columns(decision, number, len(decision.dims[number]), width).view(-1, width)
    surviving = [head for head in range(len(kept)) if head not in decision.heads[number]]
    narrow = NarrowAttention(attn, kept[surviving])
    for module, old in ((narrow, attn), (narrow.qkv, attn.qkv), (narrow.proj, attn.proj)):
        module.training = old.training
    return narrow


def _linear_part(layer: nn.Linear, places: Tensor, dim: int) -> nn.Linear:
    """The rows (``dim`` 0) or columns (1) of a linear layer."""
    places = places.to(layer.weight.device)
    part = nn.Linear(1, 1, bias=layer.bias is not None, device="meta")
    part.weight = _parameter_part(layer.weight, places, dim)
    if layer.bias is not None:
        part.bias = _parameter_part(layer.bias, places, 0) if dim == 0 else layer.bias
    part.out_features, part.in_features = part.weight.shape
    return part


def _parameter_part(parameter: Tensor, places: Tensor, dim: int) -> nn.Parameter:
    value = parameter.detach().index_select(dim, places).contiguous()
    return nn.Parameter(value, requires_grad=parameter.requires_grad)
