"""What a trace writes down: the dimensions of every tensor, and what operations said about them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from torchard.prune.depgraph.algebra import Fixed, Node, axis, freeze

Dims = list[Node]


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of the trace whose result changes when entries are left out rather than zeroed."""

    index: int
    kind: str  # "statistic", or "contraction" where zeros add nothing
    name: str
    inputs: tuple[Dims | None, ...]
    outputs: tuple[Dims | None, ...]
    over: tuple[Node, ...]
    scale: Node | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation of the trace as it was called; ``counted`` unless it is left out of ``operations``."""

    index: int
    name: str
    func: Any
    arguments: dict[str, Any]
    operands: list[Tensor]  # every tensor among the arguments
    results: list[Tensor]  # every tensor that came back
    counted: bool


@dataclass
class Ledger:
    """The table of dimensions while a model runs.

    Tensors are looked up by identity and held, since a freed tensor's id may be given to another one.
    """

    known: dict[int, tuple[Tensor, Dims]] = field(default_factory=dict)
    by_storage: dict[int, list[Tensor]] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    weights_of: dict[int, Node] = field(default_factory=dict)  # id of a grouped kernel → its group axis
    costs: list[tuple[Node, ...]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    sequences: list[Node] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    touched: set[int] = field(default_factory=set)
    operations: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    training: bool = False  # a second pass, in training mode, that only looks for further dependencies

    @property
    def index(self) -> int:
        """How many operations were recorded."""
        return len(self.operations)

    def dims(self, tensor: Tensor) -> Dims:
        """Return the dimensions of ``tensor``; one never seen before is a constant."""
        held = self.known.get(id(tensor))
        if held is not None and held[0] is tensor and len(held[1]) == tensor.dim():
            self.touched.add(id(tensor))
            return held[1]
        dims = self._as_alias(tensor) or [Fixed(size, "constant tensor") for size in tensor.shape]
        self.record(tensor, dims)
        return dims

    def record(self, tensor: Tensor, dims: Dims) -> None:
        """Write down the dimensions of ``tensor``."""
        if [dim.size for dim in dims] != list(tensor.shape):
            raise AssertionError(f"dimensions {dims} do not describe a tensor of shape {tuple(tensor.shape)}")
        self.known[id(tensor)] = (tensor, dims)
        if address := address_of(tensor):
            self.by_storage.setdefault(address, []).append(tensor)

    def record_constant(self, tensor: Tensor, reason: str) -> None:
        """Write down a tensor none of whose elements may go."""
        self.record(tensor, [Fixed(size, reason) for size in tensor.shape])

    def record_new(self, tensor: Tensor) -> None:
        """Write down a tensor whose every dimension is a fresh axis."""
        self.record(tensor, [axis(size) for size in tensor.shape])

    def mark(self, tensor: Any, role: str) -> None:
        """Remember what an operation used a tensor for; the first use counts."""
        if isinstance(tensor, Tensor):
            self.roles.setdefault(id(tensor), role)

    def _as_alias(self, tensor: Tensor) -> Dims | None:
        """Tensors made behind the trace's back (``.data``) share a storage with one that is known."""
        for other in self.by_storage.get(address_of(tensor), ()):
            dims = self.known[id(other)][1]
            if _same_place(tensor, other):
                self.touched.add(id(other))
                return dims
            for dim in dims:
                freeze(dim, "a view the trace could not follow")
        return None


def fixed_dims(sizes: Iterable[int]) -> Dims:
    """Dimensions none of whose elements may go."""
    return [Fixed(size) for size in sizes]


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """Every tensor among the arguments or results of an ATen operation, which nest only lists and tuples."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def address_of(tensor: Tensor) -> int:
    """Where the storage of a tensor, which its views share, begins in memory; 0 if there is none."""
    if isinstance(tensor, FakeTensor):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have no storage
        return 0


def _same_place(one: Tensor, other: Tensor) -> bool:
    return bool(
        one.shape == other.shape
        and one.stride() == other.stride()
        and one.storage_offset() == other.storage_offset()
    )
