"""Check a plan: the cut model must answer exactly as the whole one with the removed units silenced.

Zeroing parameters silences a unit wherever it is multiplied; where a unit is counted instead (means, norms,
softmax), those single operations of the whole model are computed over the kept entries, and numbers made
from sizes take the value they have in the cut model.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from torchard.prune.depgraph.algebra import Axis, kept, leaves
from torchard.prune.depgraph.cutting import apply, mask
from torchard.prune.depgraph.decision import Plan
from torchard.prune.depgraph.graph import DimGraph
from torchard.prune.depgraph.ledger import Call, Dims
from torchard.prune.depgraph.rules.registry import bind_arguments, name_of
from torchard.prune.depgraph.sizes import Scaling, evaluate
from torchard.prune.depgraph.tracer import UNCOUNTED, Examples, call, flat_outputs, quiet_kernels, trace


@dataclass(frozen=True)
class Verification:
    """Largest differences relative to the largest output: cut against silenced, silenced against whole."""

    error: float
    moved: float

    @property
    def passed(self) -> bool:
        """Whether cutting did nothing but remove the units, on outputs that notice their removal."""
        return self.error < 1e-5 < self.moved


def verify(
    model: nn.Module,
    plan: Plan,
    example_inputs: Examples,
    *,
    forward: Callable[[nn.Module], Any] | None = None,
    seed: int = 0,
    perturb: bool = True,
) -> Verification:
    """Compare the model cut by ``plan`` with the whole model whose removed units are silenced.

    Works on copies. Constant parameters (zero heads, unit norms) and running statistics are first moved
    (``perturb``), or zero would be compared with zero. Takes a few forward passes, and
    the memory of all activations.

    Raises:
        ValueError: if the plan was made for another model, or two runs take different operations.
    """
    whole = copy.deepcopy(model).eval()
    if perturb:
        perturb_(whole, seed=seed)
    graph = trace(whole, example_inputs, forward=forward)
    pruned = apply(whole, plan, inplace=False).model.eval()
    masked = copy.deepcopy(whole)
    mask(masked, plan)
    run = _runner(example_inputs, forward, seed)
    cut, dense = run(pruned), run(whole)
    silenced = run(masked, Replay(graph, plan))
    return Verification(_difference(cut, silenced), _difference(silenced, dense))


@torch.no_grad()
def perturb_(model: nn.Module, *, seed: int = 0, scale: float = 0.3) -> None:
    """Move every constant parameter and every running statistic at random, in place."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    for parameter in model.parameters():
        if parameter.numel() and parameter.is_floating_point() and _is_constant(parameter):
            parameter.add_(noise(parameter), alpha=scale)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += scale * noise(buffer)
        elif name.endswith("running_var"):
            buffer *= 1 + scale * noise(buffer).tanh()


def _is_constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())


class Replay(TorchDispatchMode):
    """Run the whole model as the cut one would where zeros are not enough."""

    def __init__(self, graph: DimGraph, plan: Plan) -> None:
        super().__init__()
        groups = {group.id: group for group in graph.groups(heads="both")}
        gone = {groups[name].axis: set(units) for name, units in plan.removed.items()}
        self.keep = {
            axis: [unit for unit in range(axis.size) if unit not in units] for axis, units in gone.items()
        }
        widths = {axis: len(units) for axis, units in self.keep.items()}
        self.widths = {**graph.system.phantoms(widths), **widths}
        self.attributes = graph.system.attributes(self.widths)
        self.calls = {note.index: note for note in graph.calls if self._concerns(note)}
        self.scalings = [
            note for note in graph.system.notebook.scalings if self._new_value(note) != note.value
        ]
        # Where the cut model makes up for a scale, the whole one keeps its own.
        self.kept_scales = {site.index for site, _ in graph.changed_sites(self.widths) if site.parts}
        self.operations = graph.operations
        self.index = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = name_of(func)
        if name in UNCOUNTED:
            return func(*args, **(kwargs or {}))
        index, self.index = self.index, self.index + 1
        if index >= len(self.operations) or self.operations[index] != name:
            raise ValueError(
                f"two runs of the model differ at operation {index} ({name}); it cannot be verified"
            )
        args, kwargs = self._rescaled(index, args, kwargs or {})
        note = self.calls.get(index)
        if note is None or (note.kind == "contraction" and self._silent(note, func, args, kwargs)):
            return func(*args, **kwargs)
        return self._on_kept(note, func, args, kwargs)

    def _concerns(self, note: Call) -> bool:
        return any(leaf in self.keep for node in note.over for leaf in leaves(node))

    def _new_value(self, note: Scaling) -> int | float:
        return evaluate(note.expression, self.widths, self.attributes)

    def _rescaled(self, index: int, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Numbers made from sizes, as the cut model makes them."""
        for note in self.scalings:
            if note.first <= index < note.last and index not in self.kept_scales:
                args, kwargs = tree_map(lambda leaf, note=note: self._rescale(leaf, note), (args, kwargs))
        return args, kwargs

    def _rescale(self, leaf: Any, note: Scaling) -> Any:
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            same = abs(leaf - note.value) <= 1e-6 * abs(note.value)
            return self._new_value(note) if same else leaf
        return leaf

    def _silent(self, note: Call, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether one side of a product is zero wherever a unit was removed, as it should be."""
        tensors = list(bind_arguments(func, args, dict(kwargs)).values())
        sides = [
            (t, dims) for t, dims in zip(tensors, note.inputs) if isinstance(t, Tensor) and dims is not None
        ]
        over = {leaf for node in note.over for leaf in leaves(node)} & set(self.keep)
        return any(self._zero_outside(tensor, dims, over) for tensor, dims in sides)

    def _zero_outside(self, tensor: Tensor, dims: Dims, over: set[Axis]) -> bool:
        keep = {axis: units for axis, units in self.keep.items() if axis in over}
        concerned = [place for place, node in enumerate(dims) if any(leaf in keep for leaf in leaves(node))]
        if not concerned:
            return False
        outside = tensor
        for place in concerned:
            inside = set(kept(dims[place], keep))
            gone = [position for position in range(tensor.shape[place]) if position not in inside]
            outside = outside.index_select(place, torch.tensor(gone, dtype=torch.long))
        return not bool(outside.any()) if len(concerned) == 1 else False

    def _on_kept(self, note: Call, func: Any, args: Any, kwargs: Any) -> Any:
        """Select the kept entries of every input, compute, put the result back among zeros."""
        bound = bind_arguments(func, args, kwargs)
        chosen = {
            name: self._select(value, dims) if isinstance(value, Tensor) and dims is not None else value
            for (name, value), dims in zip(bound.items(), note.inputs)
        }
        chosen |= self._resized(note, chosen)
        positional = {a.name for a in func._schema.arguments if not a.kwarg_only}
        out = func(
            *[value for name, value in chosen.items() if name in positional],
            **{name: value for name, value in chosen.items() if name not in positional},
        )
        # Computed whole as well: later reshapes depend on the layout a kernel gives its result.
        return self._scattered(out, func(*args, **kwargs), note.outputs)

    def _select(self, tensor: Tensor, dims: Dims) -> Tensor:
        for place, node in enumerate(dims):
            if any(leaf in self.keep for leaf in leaves(node)):
                tensor = tensor.index_select(place, torch.tensor(kept(node, self.keep)))
        return tensor

    def _resized(self, note: Call, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Integers among the arguments that say how large the tensors are."""
        changes: dict[str, Any] = {}
        if "normalized_shape" in chosen:
            changes["normalized_shape"] = list(chosen["input"].shape[-len(chosen["normalized_shape"]) :])
        if note.scale is not None and note.index in self.kept_scales:
            changes["scale"] = note.scale.size**-0.5
        if "HxW" in chosen:
            changes["C"] = chosen["input"].shape[1]
        if note.name == "aten.convolution" and chosen["groups"] > 1 and not chosen["transposed"]:
            changes["groups"] = chosen["input"].shape[1] // chosen["weight"].shape[1]
        return changes

    def _scattered(self, out: Any, whole: Any, outputs: Sequence[Dims | None]) -> Any:
        flat, structure = tree_flatten(whole)
        parts = tree_flatten(out)[0]
        described = iter([dims for dims in outputs if dims is not None])
        placed = [
            self._scatter(part, leaf, next(described)) if isinstance(leaf, Tensor) else leaf
            for part, leaf in zip(parts, flat)
        ]
        return tree_unflatten(placed, structure)

    def _scatter(self, part: Tensor, whole: Tensor, dims: Dims) -> Tensor:
        """Put ``part`` among zeros, laid out in memory as ``whole``."""
        for place, node in enumerate(dims):
            if any(leaf in self.keep for leaf in leaves(node)):
                shape = list(part.shape)
                shape[place] = node.size
                index = torch.tensor(kept(node, self.keep))
                part = part.new_zeros(shape).index_copy_(place, index, part)
        return torch.empty_like(whole).copy_(part) if part.shape == whole.shape else part


def _runner(
    example_inputs: Examples, forward: Callable[[nn.Module], Any] | None, seed: int
) -> Callable[..., list[Tensor]]:
    def run(model: nn.Module, mode: TorchDispatchMode | None = None) -> list[Tensor]:
        inputs = _detached(example_inputs)
        with torch.random.fork_rng(devices=[]), quiet_kernels(), torch.no_grad():
            torch.manual_seed(seed)
            with mode or contextlib.nullcontext():
                outputs = call(model, inputs, forward)
        return [leaf for leaf in flat_outputs(outputs) if leaf.is_floating_point() and leaf.numel()]

    return run


def _detached(example_inputs: Examples) -> Any:
    """Fresh tensors, so that a model that writes into its inputs gets the same ones each time."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example_inputs)


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    worst = 0.0
    for left, right in zip(one, other, strict=True):
        if left.shape != right.shape:
            return float("inf")
        scale = float(right.abs().max().clamp(min=1e-30))
        difference = float((left - right).abs().max()) / scale
        worst = max(worst, difference) if math.isfinite(difference) else float("inf")
    return worst
