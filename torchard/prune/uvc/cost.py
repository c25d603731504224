"""What a transformer costs with fewer heads, narrower values, fewer units and fewer blocks."""

from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchard.prune.uvc.structure import ViTSpec

Accounting = Literal["exact", "official"]
Amount = TypeVar("Amount", int, Tensor)


def resource(
    s: Float[Tensor, "l 2"],
    r: Float[Tensor, "l _"],
    keep: Float[Tensor, " l"],
    spec: ViTSpec,
    accounting: Accounting = "exact",
    *,
    surviving: Bool[Tensor, "l h"] | None = None,
) -> Float[Tensor, ""]:
    """Return R: the MACs left as a share of the dense model's, in float64.

    ``s`` holds how many heads and how many MLP units each block loses, ``r`` how many value dimensions each
    head loses (one column: all heads alike), ``keep`` the probability that a block is run. Numbers count as
    rounded up; the gradient takes that for the identity, and nothing is clamped: a clamp has no gradient at
    its bounds, where the variables start. With a column of ``r`` for every head, ``surviving`` says which
    heads are left; the others' ``r`` has no effect.

    Yu et al. 2022, sec. 3. ``accounting="official"`` repeats their code: all of qkv goes by heads, and the
    classifier is not counted.

    Raises:
        ValueError: if heads are removed, ``r`` has a column a head, and ``surviving`` is missing.
    """
    gone, narrowed = ceil_through(s.double()), ceil_through(r.double())
    heads, units = spec.heads - gone[:, 0], spec.hidden - gone[:, 1]
    dims = _removed_dims(narrowed, heads, surviving)
    values = spec.heads * spec.head_width - gone[:, 0] * spec.head_width - dims
    macs = block_macs(spec, heads, values, units)
    if accounting == "exact":
        return (spec.stem_macs + spec.head_macs + (keep.double() * macs).sum()) / spec.macs
    # Their qkv keeps the value part of a head as long as the head is there.
    macs = macs + spec.tokens * spec.width * (heads * spec.head_width - values)
    return (spec.stem_macs + (keep.double() * macs).sum()) / (spec.macs - spec.head_macs)


def block_macs(spec: ViTSpec, heads: Amount, values: Amount, units: Amount) -> Amount:
    """Return the MACs of a block with so many heads, value columns (of all heads together) and MLP units."""
    inner = heads * spec.head_width
    tokens, width = spec.tokens, spec.width
    projections = tokens * width * (2 * inner + 2 * values)
    return projections + tokens * tokens * (inner + values) + 2 * tokens * width * units


def ceil_through(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return ``values`` rounded up, with the gradient of the identity."""
    return values + (values.ceil() - values).detach()


def _removed_dims(narrowed: Tensor, heads: Tensor, surviving: Tensor | None) -> Tensor:
    if narrowed.shape[1] == 1:
        return narrowed[:, 0] * heads.detach()
    if surviving is None:
        if bool((heads.detach() < narrowed.shape[1]).any()):
            raise ValueError("`surviving` is needed to know whose `r` counts once heads are removed.")
        surviving = torch.ones_like(narrowed, dtype=torch.bool)
    return (narrowed * surviving).sum(dim=1)
