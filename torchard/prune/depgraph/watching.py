"""See the Python side of a traced run: hand out sizes that remember, and note where sizes are used."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchard.prune.depgraph.algebra import Node, cut
from torchard.prune.depgraph.hollow import Hollow
from torchard.prune.depgraph.ledger import Dims, Ledger
from torchard.prune.depgraph.sizes import (
    Apply,
    Attribute,
    Notebook,
    Scaling,
    SizeOf,
    Tracked,
    TrackedFloat,
    TrackedInt,
    tracked_sqrt,
)


class Watcher(TorchFunctionMode):
    """Replace the elements of every shape by tracked integers, and note equations where sizes are used."""

    def __init__(self, ledger: Ledger, notebook: Notebook, hollow: Hollow | None = None) -> None:
        super().__init__()
        self.ledger, self.notebook, self.hollow = ledger, notebook, hollow
        self.entered = 0  # operations recorded when the present call began

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        before = self.entered = self.ledger.index
        name = getattr(func, "__name__", "")
        if name in _LEAVES_TORCH and self.hollow is not None and self.hollow.holds(args[0]):
            self.hollow.refuse(name)
        out = func(*args, **kwargs)
        if name == "__get__":
            return self._tracked_shape(args[0], out) if _is_shape(func) else out
        if name == "size":
            return self._tracked_size(args, kwargs, out)
        if name == "numel" and isinstance(out, int):
            return self._tracked_count(args[0])
        if use := _USES.get(name):
            use(self, name, args, kwargs, out)
        self._note_scalings(name, args, kwargs, before)
        return out

    def equate(self, size: Any, node: Node, where: str) -> None:
        """A size given in the code equals that of a dimension; -1 leaves it open."""
        # Compared as a plain number: comparing the tracked one would be noted as the model's doing.
        if isinstance(size, int) and not isinstance(size, bool) and int.__int__(size) >= 0:
            self.notebook.equate(size, node, where)

    def dims(self, tensor: Tensor) -> Dims:
        return self.ledger.dims(tensor)

    def _tracked_shape(self, tensor: Tensor, shape: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return shape
        dims = self.dims(tensor)
        return torch.Size(TrackedInt(node.size, SizeOf(node), self.notebook) for node in dims)

    def _tracked_size(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
        shape = self._tracked_shape(args[0], out)
        place = args[1] if len(args) > 1 else kwargs.get("dim")
        return shape if place is None else shape[place]

    def _tracked_count(self, tensor: Tensor) -> Any:
        total: Any = 1
        for size in self._tracked_shape(tensor, None):
            total = total * size
        return total

    def _note_scalings(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], before: int) -> None:
        arithmetic = name.strip("_").removeprefix("r").removeprefix("i") in _ARITHMETIC
        for leaf in _tracked_in((*args, *kwargs.values())):
            if arithmetic or isinstance(leaf, TrackedFloat):
                value = leaf.real if isinstance(leaf, TrackedFloat) else int.__int__(leaf)
                self.notebook.scalings.append(Scaling(leaf.expression, value, before, self.ledger.index))


def _tracked_in(values: Iterable[Any]) -> list[TrackedInt | TrackedFloat]:
    """Every tracked number among the arguments of a call."""
    found: list[TrackedInt | TrackedFloat] = []
    for value in values:
        if isinstance(value, Tracked):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tracked_in(value)
        elif isinstance(value, dict):
            found += _tracked_in(value.values())
    return found


@contextlib.contextmanager
def tracked_attributes(modules: Mapping[str, nn.Module], notebook: Notebook) -> Iterator[None]:
    """Let every integer attribute of every module remember its name for the while."""
    changed: list[tuple[nn.Module, str, Any]] = []
    for path, module in modules.items():
        for name, value in list(vars(module).items()):
            if type(value) not in _MAY_HOLD_SIZES:
                continue
            tracked = _tracked_attribute(path, name, value, notebook)
            if tracked is not None:
                changed.append((module, name, value))
                module.__dict__[name] = tracked
    try:
        yield
    finally:
        for module, name, value in changed:
            module.__dict__[name] = value


@contextlib.contextmanager
def transparent_python() -> Iterator[None]:
    """Let Python functions of torch run under the watcher, call by call, instead of as one opaque call.

    Also keeps track through ``math.sqrt`` and the ``float`` of ``torch.nn.functional``, and empties the
    shape caches of einops, which would hand tracked integers to other runs.
    """
    closed = {name: getattr(F, name) for name in dir(F) if name.startswith("has_torch_function")}
    sqrt, verify = math.sqrt, getattr(F, _BATCH_CHECK)
    _clear_einops()
    try:
        for name in closed:
            setattr(F, name, _never)
        F.float = _Float  # type: ignore[attr-defined]
        setattr(F, _BATCH_CHECK, _never)  # one sample is enough to see what depends on what
        math.sqrt = tracked_sqrt
        yield
    finally:
        math.sqrt = sqrt
        setattr(F, _BATCH_CHECK, verify)
        del F.float  # type: ignore[attr-defined]
        for name, function in closed.items():
            setattr(F, name, function)
        _clear_einops()


_BATCH_CHECK = "_verify_batch_size"
_LEAVES_TORCH = {"tolist", "numpy", "__array__", "__dlpack__"}  # values go where no operation is seen


class _FloatType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, float)


class _Float(float, metaclass=_FloatType):
    """Stands for ``float`` in ``torch.nn.functional``: a tracked integer becomes a tracked float."""

    def __new__(cls, value: Any = 0.0) -> Any:
        if isinstance(value, TrackedInt):
            return TrackedFloat(float(int.__int__(value)), value.expression, value.notebook)
        return value if isinstance(value, TrackedFloat) else float(value)


def _never(*_: Any) -> bool:
    return False


def _clear_einops() -> None:
    module = sys.modules.get("einops.einops")
    cache: Any = getattr(module, "_reconstruct_from_shape", None)
    if cache is not None and hasattr(cache, "cache_clear"):
        cache.cache_clear()


def _is_shape(func: Any) -> bool:
    # The bound getter is a new object at each access; what it is bound to is not.
    return getattr(func, "__self__", None) is torch.Tensor.shape and func.__name__ == "__get__"


def _tracked_attribute(path: str, name: str, value: Any, notebook: Notebook) -> Any:
    if type(value) is int:
        return TrackedInt(value, Attribute((path, name, None), value), notebook)
    if type(value) in (tuple, list) and any(type(item) is int for item in value):
        return type(value)(
            TrackedInt(item, Attribute((path, name, place), item), notebook) if type(item) is int else item
            for place, item in enumerate(value)
        )
    return None


_MAY_HOLD_SIZES = {int, tuple, list}
_ARITHMETIC = {"add", "sub", "mul", "div", "truediv", "true_divide", "pow", "multiply", "divide", "subtract"}


Use = Callable[[Watcher, str, Sequence[Any], dict[str, Any], Any], None]


def _sizes(args: Sequence[Any], kwargs: dict[str, Any], start: int, *names: str) -> list[Any]:
    """Sizes given one by one or as a sequence."""
    given = next((kwargs[name] for name in names if name in kwargs), None)
    if given is None:
        rest = args[start:]
        given = rest[0] if rest and isinstance(rest[0], (tuple, list)) else rest
    return list(given) if isinstance(given, (tuple, list)) else [given]


def _reshaped(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """view, reshape, expand, zeros …: one size per dimension of the result, aligned from the right."""
    start = 1 if args and isinstance(args[0], Tensor) else 0
    sizes = _sizes(args, kwargs, start, "shape", "size")
    if isinstance(out, Tensor) and all(isinstance(size, int) for size in sizes):
        for size, node in zip(reversed(sizes), reversed(watcher.dims(out))):
            watcher.equate(size, node, name)


def _filled(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """full and new_full: the value comes after the size."""
    start = 1 if args and isinstance(args[0], Tensor) else 0
    sizes = _sizes(args[: start + 1], kwargs, start, "size")
    for size, node in zip(sizes, watcher.dims(out)):
        watcher.equate(size, node, name)


def _counted(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """arange and the like: a size that makes distinct elements may not change."""
    for value in _tracked_in((*args, *kwargs.values())):
        if isinstance(value, TrackedInt):
            watcher.notebook.equate(value, int.__int__(value), name)


def _unflattened(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    place = kwargs.get("dim", args[1] if len(args) > 1 else 0) % args[0].dim()
    sizes = kwargs.get("sizes", args[2] if len(args) > 2 else ())
    for size, node in zip(sizes, watcher.dims(out)[place:]):
        watcher.equate(size, node, name)


def _split(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    given = args[1] if len(args) > 1 else kwargs.get("split_size", kwargs.get("split_size_or_sections"))
    place = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    pieces = [watcher.dims(piece)[place] for piece in out]
    if isinstance(given, int):
        for node in pieces[:-1] if len(pieces) > 1 else []:
            watcher.equate(given, node, name)
        if len(pieces) > 1 and pieces[-1].size == int.__int__(given):
            watcher.equate(given, pieces[-1], name)
        if len(pieces) == 1:
            watcher.notebook.equate(pieces[0], pieces[0].size, name)
        return
    for size, node in zip(given or (), pieces):
        watcher.equate(size, node, name)


def _chunked(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """chunk: parts are as large as an equal division makes them."""
    place = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    pieces = [watcher.dims(piece)[place] for piece in out]
    if len({node.size for node in pieces}) == 1:
        for node in pieces[1:]:
            watcher.notebook.equate(pieces[0], node, name)
    else:
        for node in pieces:
            watcher.notebook.equate(node, node.size, f"{name} into unequal parts")


def _narrowed(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    values = dict(zip(("input", "dim", "start", "length"), args)) | kwargs
    place = values["dim"]
    node = watcher.dims(values["input"])[place]
    if isinstance(values["start"], int):
        watcher.equate(values["start"], cut(node, int.__int__(values["start"]) % node.size)[0], name)
    watcher.equate(values["length"], watcher.dims(out)[place], name)


def _normalised(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    for size, node in zip(reversed(list(shape)), reversed(watcher.dims(args[0]))):
        watcher.equate(size, node, name)


def _convolved(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
    node = watcher.ledger.weights_of.get(id(weight))
    if node is not None:
        watcher.equate(groups, node, name)


def _attended(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Without a scale, attention divides by √d: on the plain path each side by the fourth root of d."""
    if kwargs.get("scale") is None:
        query = kwargs["query"] if "query" in kwargs else args[0]
        width = SizeOf(watcher.dims(query)[-1])
        root = query.shape[-1] ** -0.25
        last = watcher.ledger.index
        watcher.notebook.scalings.append(Scaling(Apply("pow", width, -0.25), root, watcher.entered, last))


def _indexed(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Bounds of slices are sizes of what lies before or behind them."""
    dims = watcher.dims(args[0])
    for node, entry in _slices(dims, args[1]):
        for bound in (entry.start, entry.stop):
            if isinstance(bound, int) and 0 < abs(int.__int__(bound)) < node.size:
                _equate_bound(watcher, node, bound)


def _equate_bound(watcher: Watcher, node: Node, bound: int) -> None:
    plain = int.__int__(bound)
    before, behind = cut(node, plain % node.size)
    if plain > 0:
        watcher.equate(bound, before, "a slice")
    else:
        watcher.notebook.equate(-bound, behind, "a slice")


def _slices(dims: Dims, index: Any) -> list[tuple[Node, slice]]:
    """Pairs of dimension and slice of an index expression."""
    entries = list(index) if isinstance(index, tuple) else [index]
    spans = [_span(entry) for entry in entries]
    missing = len(dims) - sum(spans)
    found, place = [], 0
    for entry, span in zip(entries, spans):
        if entry is Ellipsis:
            place += missing
            continue
        if isinstance(entry, slice) and place < len(dims) and entry.step in (None, 1):
            found.append((dims[place], entry))
        place += span
    return found


def _span(entry: Any) -> int:
    if entry is None or entry is Ellipsis or isinstance(entry, bool):
        return 0
    if isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8):
        return entry.dim()
    return 1


def _repeated(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """repeat: result = copies · d in each dimension."""
    copies = _sizes(args, kwargs, 1, "repeats", "dims", "sizes")
    dims = watcher.dims(args[0])
    if not all(isinstance(count, int) for count in copies) or not isinstance(out, Tensor):
        return
    for count, source, result in zip(reversed(copies), [*reversed(dims)], reversed(watcher.dims(out))):
        size: Any = TrackedInt(source.size, SizeOf(source), watcher.notebook)
        watcher.notebook.equate(size * count, result, name)
    for count, result in zip(copies, watcher.dims(out)[: len(copies) - len(dims)]):
        watcher.equate(count, result, name)


def _interleaved(watcher: Watcher, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    count = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    place = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if isinstance(count, int) and isinstance(place, int):
        source, result = watcher.dims(args[0])[place], watcher.dims(out)[place]
        size: Any = TrackedInt(source.size, SizeOf(source), watcher.notebook)
        watcher.notebook.equate(size * count, result, name)


_FACTORIES = ("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty")
_USES: dict[str, Use] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to", "_unsafe_view"), _reshaped),
    **dict.fromkeys(_FACTORIES, _reshaped),
    **dict.fromkeys(("full", "new_full"), _filled),
    **dict.fromkeys(("arange", "linspace", "eye", "randperm", "one_hot"), _counted),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split"), _split),
    **dict.fromkeys(("chunk", "unsafe_chunk", "tensor_split"), _chunked),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolved),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolved),
    "scaled_dot_product_attention": _attended,
    **dict.fromkeys(("__getitem__", "__setitem__"), _indexed),
    **dict.fromkeys(("repeat", "tile"), _repeated),
    "repeat_interleave": _interleaved,
    "unflatten": _unflattened,
    "narrow": _narrowed,
}
