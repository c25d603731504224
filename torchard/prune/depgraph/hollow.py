"""Go through a model without its arithmetic: every tensor has its place and size, few have their values.

What depends on what follows from sizes and layouts. Products, convolutions and normalisations need therefore
not be carried out: each is answered by memory of the right size, type and layout that nobody has written to.
Such a tensor, and all that is computed from it, is *hollow*. What does not depend on the example (positions,
masks, tables of indices) is computed as usual, since code may keep it for later. Code that looks at the value
of a hollow tensor cannot be followed that way and is told so by :class:`LooksAtValues`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchard.prune.depgraph.ledger import address_of, tensors_in

Arguments = Mapping[str, Any]


class LooksAtValues(Exception):
    """The model's code depends on values that were not computed."""


class Hollow:
    """Stands in for operations on ``inputs`` and what comes of them, and knows what was never computed."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self.fed = {address_of(tensor) for tensor in inputs} - {0}  # storages that depend on the inputs
        self.unwritten: set[int] = set()  # those of them that are hollow
        self.looked_at = ""  # the operation that needed values, if there was one

    def holds(self, tensor: Tensor) -> bool:
        """Whether the values of ``tensor`` are not those the model would have computed."""
        return address_of(tensor) in self.unwritten

    def call(
        self,
        func: Any,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        arguments: Arguments,
        operands: Sequence[Tensor],
    ) -> Any:
        """Return what ``func(*args, **kwargs)`` would return, computed only where it has to be.

        Raises:
            LooksAtValues: if the result depends on values that are not there.
        """
        addresses = {address_of(tensor) for tensor in operands}
        hollow, fed = not addresses.isdisjoint(self.unwritten), not addresses.isdisjoint(self.fed)
        if hollow and _looks_at_values(func, name, operands, self):
            self.refuse(name)
        sketch = _SKETCHES.get(name) if fed else None
        sketch = _LIGHT_SKETCHES.get(name, sketch) if hollow else sketch
        out = sketch(arguments) if sketch is not None else None
        if out is not None:
            self._mark(tensors_in((out,)), hollow=True)
            return out
        out = func(*args, **kwargs)
        if fed:
            self._mark([*tensors_in((out,)), *(operands if func._schema.is_mutable else ())], hollow=hollow)
        return out

    def refuse(self, name: str) -> None:
        """Stop, and remember why even if the model's code swallows the exception."""
        self.looked_at = name
        raise LooksAtValues(f"{name} looks at values")

    def _mark(self, tensors: Iterable[Tensor], *, hollow: bool) -> None:
        for tensor in tensors:
            address = address_of(tensor)
            if hollow and not address and tensor.numel():
                self.refuse("a tensor without a storage")
            self.fed |= {address} - {0}
            self.unwritten |= {address} - {0} if hollow else set()


def _looks_at_values(func: Any, name: str, operands: Sequence[Tensor], hollow: Hollow) -> bool:
    if not name.startswith("aten.") or name in _SAMPLERS:
        return True  # nobody knows what the kernel does with such numbers
    if name in _ADDRESSING:
        # Places may lie anywhere in memory nobody has written to, and masks decide how much is chosen.
        return any(not tensor.is_floating_point() and hollow.holds(tensor) for tensor in operands)
    return bool(_VALUE_TAGS & set(func.tags))


_VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_SAMPLERS = {
    f"aten.{name}" for name in ("grid_sampler_2d", "grid_sampler_3d", "multinomial", "bernoulli", "histc")
}
_ADDRESSING = {
    f"aten.{name}{suffix}"
    for name in (
        *("index", "_unsafe_index", "index_put", "_index_put_impl", "index_select", "index_add"),
        *("index_copy", "index_fill", "index_reduce", "gather", "scatter", "scatter_add", "scatter_reduce"),
        *("take", "put", "embedding", "_embedding_bag", "_embedding_bag_forward_only", "bucketize"),
    )
    for suffix in ("", "_")
}


# Each function below answers one operation by memory of the size, type and layout of its result, or by
# nothing if the arguments are not plain: then the operation itself runs, or says what is wrong.


def _convolution(of: Arguments) -> Tensor | None:
    inputs, weight, bias = of["input"], of["weight"], of["bias"]
    space = inputs.dim() - 2
    if space < 1 or weight.dim() != inputs.dim() or not _alike(inputs, weight):
        return None
    step, pad, spread, extra = (
        list(of[name]) * (space if len(of[name]) == 1 else 1)
        for name in ("stride", "padding", "dilation", "output_padding")
    )
    reach = [gap * (size - 1) for gap, size in zip(spread, weight.shape[2:])]
    sizes = list(zip(inputs.shape[2:], step, pad, reach, extra))
    if of["transposed"]:
        given, out = weight.shape[0], weight.shape[1] * of["groups"]
        placed = [(size - 1) * s - 2 * p + far + more + 1 for size, s, p, far, more in sizes]
    else:
        given, out = weight.shape[1] * of["groups"], weight.shape[0]
        placed = [(size + 2 * p - far - 1) // s + 1 for size, s, p, far, _ in sizes]
    if inputs.shape[1] != given or out % of["groups"] or min(placed) < 1 or min(inputs.shape) < 1:
        return None
    if bias is not None and bias.shape != (out,):
        return None
    return torch.empty(
        (inputs.shape[0], out, *placed),
        dtype=inputs.dtype,
        device=inputs.device,
        memory_format=_layout(inputs, weight),
    )


def _mm(of: Arguments) -> Tensor | None:
    return _product(of["self"], of["mat2"])


def _addmm(of: Arguments) -> Tensor | None:
    out = _product(of["mat1"], of["mat2"])
    return out if out is not None and _adds_to(of["self"], out) else None


def _baddbmm(of: Arguments) -> Tensor | None:
    out = _product(of["batch1"], of["batch2"])
    return out if out is not None and _adds_to(of["self"], out) else None


def _product(left: Tensor, right: Tensor) -> Tensor | None:
    fits = left.shape[-1] == right.shape[-2] and left.shape[:-2] == right.shape[:-2]
    return left.new_empty(*left.shape[:-1], right.shape[-1]) if fits and _alike(left, right) else None


def _batch_norm(of: Arguments) -> tuple[Tensor, ...] | None:
    inputs = of["input"]
    channels = (inputs.shape[1],) if inputs.dim() > 1 else ()
    given = [of.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    if of.get("training", False) or not all(t is None or tuple(t.shape) == channels for t in given):
        return None
    return _like_result(inputs), inputs.new_empty(0), inputs.new_empty(0)


def _layer_norm(of: Arguments) -> tuple[Tensor, ...] | None:
    inputs, shape = of["input"], tuple(of["normalized_shape"])
    fits = len(shape) > 0 and tuple(inputs.shape[-len(shape) :]) == shape and inputs.dtype == torch.float32
    if not fits or any(tuple(t.shape) != shape for t in (of["weight"], of["bias"]) if t is not None):
        return None
    kept = (*inputs.shape[: -len(shape)], *[1] * len(shape))
    return inputs.new_empty(inputs.shape), inputs.new_empty(kept), inputs.new_empty(kept)


def _attention(of: Arguments) -> tuple[Tensor, ...] | None:
    query, key, value = of["query"], of["key"], of["value"]
    alike = query.dtype == torch.float32 and _alike(query, key) and _alike(key, value)
    if (
        not alike
        or key.shape != value.shape
        or (query.shape[0], query.shape[-1]) != (key.shape[0], key.shape[-1])
    ):
        return None
    batch, heads, length, _ = query.shape
    return torch.empty_like(query), query.new_empty(batch, length, heads).transpose(1, 2)


def _softmax(of: Arguments) -> Tensor | None:
    tensor: Tensor = of["self"]
    return None if of["half_to_float"] else tensor.new_empty(tensor.shape)


def _like(of: Arguments) -> Tensor | None:
    return _like_result(of["self"]) if of["self"].is_floating_point() else None


def _in_place(of: Arguments) -> Tensor:
    tensor: Tensor = of["self"]
    return tensor


def _clone(of: Arguments) -> Tensor:
    return torch.empty_like(of["self"], memory_format=of.get("memory_format") or torch.preserve_format)


def _both(of: Arguments) -> Tensor | None:
    """Arithmetic on two operands of one type."""
    one, other = of["self"], of["other"]
    if not one.is_floating_point():
        return None
    if isinstance(other, (int, float)):
        if _decides(one):
            return one.new_empty(one.shape)
        return _with_memory(_without_memory(one) * torch.empty((), device="meta"), one)
    if not isinstance(other, Tensor) or not _alike(one, other):
        return None
    if one.shape == other.shape and one.stride() == other.stride():
        return _like_result(one)
    if _decides(one) and torch.broadcast_shapes(one.shape, other.shape) == one.shape:
        return one.new_empty(one.shape)
    return _with_memory(_without_memory(one) * _without_memory(other), one)


def _both_in_place(of: Arguments) -> Tensor | None:
    one, other = of["self"], of["other"]
    if isinstance(other, Tensor) and one.shape != other.shape:
        fits = other.dim() <= one.dim() and torch.broadcast_shapes(one.shape, other.shape) == one.shape
        return one if fits and _alike(one, other) else None
    return one if one.is_floating_point() else None


def _cat(of: Arguments) -> Tensor | None:
    first, *others = of["tensors"]
    at = of["dim"] % max(first.dim(), 1)
    rest = (*first.shape[:at], *first.shape[at + 1 :])
    for tensor in (first, *others):
        same = tensor.dim() == first.dim() and (*tensor.shape[:at], *tensor.shape[at + 1 :]) == rest
        if not same or not _alike(first, tensor) or not tensor.is_contiguous():
            return None
    size = sum(tensor.shape[at] for tensor in (first, *others))
    return first.new_empty(*first.shape[:at], size, *first.shape[at + 1 :]) if first.dim() else None


def _like_result(tensor: Tensor) -> Tensor:
    """What an operation on each element returns: dense, in the order of its operand."""
    if tensor.is_contiguous():
        return tensor.new_empty(tensor.shape)
    return _with_memory(_without_memory(tensor).neg(), tensor)


def _decides(tensor: Tensor) -> bool:
    """Whether the order of dimensions in memory is the usual one, with nothing left to other operands."""
    return tensor.is_contiguous() and 1 not in tensor.shape[1:] and 0 not in tensor.shape


def _without_memory(tensor: Tensor) -> Tensor:
    """A tensor of this layout with which torch only reckons, as it knows best what decides on a result's."""
    return torch.empty_strided(tensor.shape, tensor.stride(), device="meta")


def _with_memory(made: Tensor, like: Tensor) -> Tensor:
    return torch.empty_strided(made.shape, made.stride(), dtype=like.dtype, device=like.device)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and one.layout == other.layout


def _adds_to(tensor: Tensor, out: Tensor) -> bool:
    fits = all(a in (1, b) for a, b in zip(reversed(tensor.shape), reversed(out.shape)))
    return fits and tensor.dim() <= out.dim() and _alike(tensor, out)


def _layout(*tensors: Tensor) -> torch.memory_format:
    """Channels last if one of the tensors is, as torch decides it for a convolution."""
    last = torch.channels_last if tensors[0].dim() == 4 else torch.channels_last_3d
    return last if any(_is_channels_last(tensor) for tensor in tensors) else torch.contiguous_format


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether strides grow from channels over columns, rows, … to the batch."""
    if tensor.dim() not in (4, 5):
        return False
    least, sizes, strides = 0, tensor.shape, tensor.stride()
    for place in (1, *range(tensor.dim() - 1, 1, -1), 0):
        ambiguous = place == 0 and least == strides[1]
        if not sizes[place] or strides[place] < least or ambiguous:
            return False
        least = strides[place] * sizes[place]
    return strides[1] > 0


Sketch = Callable[[Arguments], Any]
_SKETCHES: dict[str, Sketch] = {
    "aten.convolution": _convolution,
    "aten.mm": _mm,
    "aten.bmm": _mm,
    "aten.addmm": _addmm,
    "aten.baddbmm": _baddbmm,
    "aten.native_batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _batch_norm,
    "aten.native_layer_norm": _layer_norm,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
}
_ACTIVATIONS = ("relu", "silu", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "elu")
_MAPS = ("gelu", "mish", "softplus", "leaky_relu", "exp", "rsqrt", "sqrt", "neg")
# Cheap enough to be worth an answer only where the operands are not there anyway.
_LIGHT_SKETCHES: dict[str, Sketch] = {
    **{f"aten.{name}": _like for name in (*_ACTIVATIONS, *_MAPS)},
    **{f"aten.{name}_": _in_place for name in _ACTIVATIONS},
    **{f"aten.{name}": _both for name in ("add", "mul", "sub", "div")},
    **{f"aten.{name}_": _both_in_place for name in ("add", "mul", "sub", "div")},
    "aten._softmax": _softmax,
    "aten.clone": _clone,
    "aten.cat": _cat,
}
