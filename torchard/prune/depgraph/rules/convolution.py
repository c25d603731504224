"""Convolution, pooling, resizing, padding: everything that slides over space."""

import re

from torchard.prune.depgraph.algebra import Fixed, Node, axis, concat, freeze, peel, prod
from torchard.prune.depgraph.ledger import Dims, fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.convolution", "aten._convolution", "aten.convolution_overrideable")
def convolution(op: Op) -> Outcome:
    """Input channels are (G, ci), a kernel is (G·co, ci, …) or transposed (G·ci, co, …)."""
    batch, channels, *space = op.dims("input")
    first, second, *kernel = op.dims("weight")
    for node in space:
        op.fix(node, "a convolution slides over it")
    for node in kernel:
        freeze(node, "")  # nobody expects a kernel's own extent to be prunable: not worth a reason
    groups = _group_axis(op, op["groups"])
    if op["transposed"]:
        op.same(channels, first)
        group, inner = peel(first, first.size // op["groups"])
        op.same(group, groups)
        out = prod(groups, second)
        contracted = inner
    else:
        group, inner = peel(channels, second.size)
        op.same(group, groups)
        op.same(inner, second)
        op.same(peel(first, first.size // op["groups"])[0], groups)
        out, contracted = first, second
    if op.has("bias"):
        op.ledger.mark(op["bias"], "bias")
        op.same(out, op.dims("bias")[0])
    result: Dims = [batch, out, *fixed_dims(op.out.shape[2:])]
    op.contraction([contracted], result)
    op.cost(batch, *(space if op["transposed"] else result[2:]), *op.dims("weight"))
    return result


def _group_axis(op: Op, size: int) -> Node:
    """The groups of a kernel are one axis, however often the kernel is used."""
    return op.ledger.weights_of.setdefault(id(op["weight"]), axis(size))


_POOLS = [f"aten.{kind}_pool{d}d" for kind in ("avg", "adaptive_avg", "_adaptive_avg") for d in (1, 2, 3)]
_MAX_POOLS = [f"aten.max_pool{d}d_with_indices" for d in (1, 2, 3)] + [
    *(f"aten.adaptive_max_pool{d}d" for d in (1, 2, 3)),
    *(f"aten.fractional_max_pool{d}d" for d in (2, 3)),
]
_RESIZES = [
    *(f"aten.upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "trilinear3d")),
    *(f"aten.upsample_{kind}" for kind in ("bilinear2d", "bicubic2d")),
    *(f"aten._upsample_nearest_exact{d}d" for d in (1, 2, 3)),
    *(f"aten._upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic", "lanczos")),
]
_BORDERS = [f"aten.{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)]


@rule(*_POOLS, *_RESIZES, *_BORDERS, "aten.max_pool2d", "aten.max_pool1d", "aten.mkldnn_max_pool2d")
@rule("aten.max_pool3d", "aten.quantized_max_pool2d", "aten.max_unpool2d", "aten.max_unpool3d")
def over_space(op: Op) -> Outcome:
    """Space changes its size; what stands before it stays."""
    return _over_space(op)


@rule(*_MAX_POOLS)
def over_space_with_indices(op: Op) -> Outcome:
    """As ``over_space``, the places of the maxima being the second result."""
    dims = _over_space(op)
    return [dims, dims]


@rule("aten.constant_pad_nd", "aten.pad")
def constant_pad(op: Op) -> Outcome:
    """Padding puts fixed elements before and after; what is cropped is cut off."""
    dims = op.dims("self")
    pads = list(op["pad"])
    for place, (before, after) in enumerate(zip(pads[::2], pads[1::2]), start=1):
        if before < 0 or after < 0:
            op.fix(dims[-place], "negative padding")
            dims[-place] = Fixed(dims[-place].size + before + after)
        elif before or after:
            dims[-place] = concat(Fixed(before, "padding"), dims[-place], Fixed(after, "padding"))
    return dims


@rule("aten.im2col")
def im2col(op: Op) -> Outcome:
    """Channels become (channel, place in the window), windows a new last dimension."""
    *batch, channels, height, width = op.dims("self")
    op.fix(height, "a window slides over it")
    op.fix(width, "a window slides over it")
    window = op["kernel_size"][0] * op["kernel_size"][-1]
    return [*batch, prod(channels, Fixed(window)), Fixed(op.out.shape[-1])]


@rule("aten.col2im")
def col2im(op: Op) -> Outcome:
    """The inverse of ``im2col``, overlapping windows added."""
    *batch, channels, places = op.dims("self")
    op.fix(places, "a window slides over it")
    slow, fast = peel(channels, op["kernel_size"][0] * op["kernel_size"][-1])
    op.fix(fast, "a window slides over it")
    return [*batch, slow, *fixed_dims(op.out.shape[-2:])]


@rule("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten._grid_sampler_2d_cpu_fallback")
def grid_sampler(op: Op) -> Outcome:
    """Sampling moves within space; the grid's coordinates are fixed."""
    batch, channels, *space = op.dims("input")
    grid_batch, *coordinates = op.dims("grid")
    for node in (*space, *coordinates):
        op.fix(node, "space")
    op.same(batch, grid_batch)
    return [batch, channels, *fixed_dims(op.out.shape[2:])]


@rule("torchvision.deform_conv2d")
def deform_conv(op: Op) -> Outcome:
    """As a convolution; offsets and masks are fixed."""
    batch, channels, *space = op.dims("input")
    out, inner, *kernel = op.dims("weight")
    for argument in ("offset", "mask"):
        for node in op.dims(argument)[1:]:
            op.fix(node, "offsets of a deformable convolution")
    for node in (*space, *kernel):
        op.fix(node, "a convolution slides over it")
    if op["groups"] == 1 and op["offset_groups"] == 1:
        op.same(channels, inner)
    else:
        for node in (channels, inner, out):
            op.fix(node, "grouped deformable convolution")
    if op.has("bias"):
        op.same(out, op.dims("bias")[0])
    return [batch, out, *fixed_dims(op.out.shape[2:])]


@rule("torchvision.roi_align")
def roi_align(op: Op) -> Outcome:
    """Boxes are cut out of the maps; channels stay."""
    _, channels, *space = op.dims("input")
    for node in (*space, *op.dims("rois")):
        op.fix(node, "space")
    return [Fixed(op.out.shape[0]), channels, *fixed_dims(op.out.shape[2:])]


def _over_space(op: Op) -> Dims:
    out = op.out[0] if isinstance(op.out, tuple) else op.out
    dims = op.dims("self" if "self" in op else "input")
    found = re.search(r"(\d)d", op.name)
    space = int(found[1]) if found else len(dims)
    for node in dims[-space:]:
        op.fix(node, f"{op.name} slides over it")
    return [*dims[:-space], *fixed_dims(out.shape[-space:])]
