"""Put right what attention loses when it makes its scale from a width that is cut.

Where scores are divided by the root of a width, a narrower width means larger scores. The factor can be
taken up by the last affine layer before them (its weight and bias, or those of a norm): every step from
there to the scale is a change of layout or linear, and the rows concerned feed nothing else. That is looked
up once, while the steps of a trace are still known; where it does not hold the scale stays changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchard.prune.depgraph.algebra import Axis
from torchard.prune.depgraph.ledger import Ledger, Step, tensors_in
from torchard.prune.depgraph.sizes import Apply, AttributeKey, Expression, Notebook, SizeOf, evaluate


@dataclass(frozen=True)
class Part:
    """Positions along one dimension of a parameter."""

    name: str
    dim: int
    positions: frozenset[int]


@dataclass(frozen=True)
class Site:
    """An operation that multiplies or divides by a number made from sizes, and what can make up for it."""

    index: int  # of the operation
    expression: Expression
    value: int | float
    divides: bool
    parts: tuple[Part, ...]  # empty if nothing can

    def factor(self, widths: Mapping[Axis, int], attributes: Mapping[AttributeKey, int]) -> float:
        """By how much the product would have to grow to stay as it was."""
        now = evaluate(self.expression, widths, attributes)
        if now == self.value or not now or not self.value:
            return 1.0
        return now / self.value if self.divides else self.value / now


def find_sites(ledger: Ledger, notebook: Notebook, names: Mapping[int, str]) -> list[Site]:
    """Return the operations of a trace that scale by sizes; ``names`` are of parameters, by identity."""
    lineage = _Lineage(ledger.steps, names)
    found = []
    for step, operands, expression, value, divides in _scaled(ledger, notebook):
        parts = next((parts for tensor in operands if (parts := lineage.parts(tensor, step))), ())
        found.append(Site(step.index, expression, value, divides, parts))
    return found


def _scaled(
    ledger: Ledger, notebook: Notebook
) -> Iterator[tuple[Step, list[Tensor], Expression, int | float, bool]]:
    """Operations with a scale made from sizes, and the tensors that could be scaled instead."""
    steps = {step.index: step for step in ledger.steps if step.counted}
    for call in ledger.calls:
        if call.scale is not None:
            step = steps[call.index]
            operands = [step.arguments["query"], step.arguments["key"]]
            expression = Apply("pow", SizeOf(call.scale), -0.5)
            yield step, operands, expression, call.scale.size**-0.5, False
    for note in notebook.scalings:
        for index in range(note.first, note.last):
            step = steps[index]
            if step.name in ("aten.mul", "aten.div") and _is_near(step.arguments["other"], note.value):
                divides = step.name == "aten.div"
                yield step, [step.arguments["self"]], note.expression, note.value, divides


def _is_near(given: Any, value: int | float) -> bool:
    return isinstance(given, (int, float)) and abs(given - value) <= 1e-6 * abs(value)


class _Lineage:
    """Which affine layer made a tensor, and whether all that it feeds is one operation."""

    def __init__(self, steps: Sequence[Step], names: Mapping[int, str]) -> None:
        self.names = names
        self.made: dict[int, Step] = {}
        self.used: dict[int, list[Step]] = {}
        for step in steps:
            for tensor in step.results:
                self.made.setdefault(id(tensor), step)
            for tensor in step.operands:
                self.used.setdefault(id(tensor), []).append(step)

    def parts(self, tensor: Tensor, site: Step) -> tuple[Part, ...]:
        """Parameter entries that scale ``tensor`` at ``site`` and nothing else; none if there are no such."""
        for source in dict.fromkeys(self._sources(tensor)):
            affine = _affine(source, self)
            if affine is None:
                continue
            feature, parameters = affine
            rows = self._rows(tensor, source, feature)
            biases = self._feeds(source, feature, rows, site) if rows else None
            if biases is not None:
                return tuple(Part(name, dim, frozenset(rows)) for name, dim in (*parameters, *biases))
        return ()

    def parameter(self, tensor: Any) -> tuple[str, int] | None:
        """The name of a parameter used once, and which of its dimensions is the last of ``tensor``."""
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) in self.names:
            name, dim = self.names[id(tensor)], tensor.dim() - 1
        else:
            step = self.made.get(id(tensor))
            whole = step.arguments.get("self") if step is not None and step.name in _TURNS else None
            if not isinstance(whole, Tensor) or id(whole) not in self.names or whole.dim() != 2:
                return None
            name, dim = self.names[id(whole)], 0
            if len(self.used[id(whole)]) > 1:
                return None
        return (name, dim) if len(self.used[id(tensor)]) == 1 else None

    def _sources(self, tensor: Tensor) -> Iterator[Step]:
        """Affine steps that ``tensor`` comes from by layout and linear steps, nearest first."""
        step = self.made.get(id(tensor))
        if step is None:
            return
        if step.name in _AFFINE or _gain(step, self) is not None:
            yield step
        elif step.name in _FOLLOWED:
            for operand in step.operands:
                yield from self._sources(operand)

    def _rows(self, tensor: Tensor, source: Step, feature: int) -> set[int]:
        """Features of ``source`` that ``tensor`` is made of."""
        numbers = self._numbers(tensor, source, feature)
        return {row for number in numbers for row in _values(number) if row >= 0}

    def _numbers(self, tensor: Tensor, source: Step, feature: int) -> list[Tensor]:
        """For each element of ``tensor`` the features it is made of, as tensors of its shape."""
        step = self.made.get(id(tensor))
        if step is source:
            return [_numbered(tensor, feature)]
        if step is None or step.name not in _FOLLOWED:
            return []
        found = []
        for operand in step.operands:
            for number in self._numbers(operand, source, feature):
                found += [n for out, n in _carried(step, operand, number) if out is tensor]
        return found

    def _feeds(self, source: Step, feature: int, rows: set[int], site: Step) -> list[tuple[str, int]] | None:
        """Biases added on the way if the rows of ``source`` reach ``site``, linearly, and nothing else."""
        start = source.results[0]
        reached, passed = {id(start)}, [site]
        biases: list[tuple[str, int]] = []
        pending = [(start, _numbered(start, feature))]
        while pending:
            tensor, number = pending.pop()
            for step in self.used.get(id(tensor), ()):
                if step is site:
                    continue
                if (bias := self._bias(step, tensor, number)) is not None:
                    biases.append(bias)
                elif step.name in _FOLLOWED:
                    passed.append(step)
                else:
                    return None
                carried = _carried(step, tensor, number) if step.results[0] is not tensor else []
                onward = [found for found in carried if rows & _values(found[1])]
                if step.name in _PRODUCTS:
                    onward = onward[:1]  # one of the rows stands for all
                reached |= {id(out) for out, _ in onward}
                pending += onward
        return biases if all(_is_linear_in(step, reached) for step in passed) else None

    def _bias(self, step: Step, tensor: Tensor, number: Tensor) -> tuple[str, int] | None:
        """The parameter an addition adds to a layer's features, as ``F.linear`` does for some layouts."""
        other = step.arguments.get("other")
        if step.name not in ("aten.add", "aten.add_") or not isinstance(other, Tensor) or other.dim() != 1:
            return None
        found = self.parameter(other) if id(other) in self.names else None
        alike = step.arguments["self"] is tensor and torch.equal(number, _numbered(tensor, tensor.dim() - 1))
        return found if alike and other.shape[0] == tensor.shape[-1] else None


def _is_linear_in(step: Step, reached: set[int]) -> bool:
    """Whether a result is scaled by exactly the factor by which the operands reached are."""
    given = [id(operand) in reached for operand in step.operands]
    if step.name in ("aten.add", "aten.sub"):
        return all(given) or not any(given)
    if step.name == "aten.div":
        return not any(given[1:])
    return sum(given) <= 1 or step.name in ("aten.cat", "aten.stack")


def _numbered(tensor: Tensor, feature: int) -> Tensor:
    """The position along dimension ``feature`` of every element."""
    shape = [1] * tensor.dim()
    shape[feature] = tensor.shape[feature]
    return torch.arange(tensor.shape[feature]).view(shape).expand(tensor.shape)


def _carried(step: Step, operand: Tensor, number: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Results of a step with the features their elements are made of, as far as ``operand`` gives them."""
    results = step.results
    if step.name in _KEEPS:
        return [(results[0], number.expand(results[0].shape))]
    if step.name in _PRODUCTS:  # every element of the result is made of many
        return [(results[0], torch.tensor(row).expand(results[0].shape)) for row in _values(number)]
    if step.name in _VIEWS:  # of what need not be contiguous here
        return [(results[0], number.reshape(results[0].shape))]
    arguments = {name: _swapped(value, operand, number) for name, value in step.arguments.items()}
    made = tensors_in((step.func(**arguments),))
    return list(zip(results, made, strict=True))


def _values(number: Tensor) -> set[int]:
    """The different elements; repeats by expansion are not looked at."""
    first = tuple(0 if stride == 0 else slice(None) for stride in number.stride())
    return set(torch.unique(number[first]).tolist())


def _swapped(value: Any, operand: Tensor, number: Tensor) -> Any:
    """An argument with ``operand`` replaced by the numbers, and every other tensor by -1, which is no row."""
    if isinstance(value, (list, tuple)):
        return [_swapped(item, operand, number) for item in value]
    if value is operand:
        return number
    return torch.full(value.shape, -1) if isinstance(value, Tensor) else value


def _affine(step: Step, lineage: _Lineage) -> tuple[int, list[tuple[str, int]]] | None:
    """The dimension of an affine step's features and its parameters, if all are parameters used once."""
    if (gain := _gain(step, lineage)) is not None:
        return step.results[0].dim() - 1, [gain]
    weight, bias, feature = _AFFINE[step.name]
    if step.arguments.get("transposed"):
        return None
    found = []
    for tensor in (step.arguments.get(weight), step.arguments.get(bias)):
        if tensor is None:
            continue
        parameter = lineage.parameter(tensor)
        if parameter is None:
            return None
        name, dim = parameter
        found.append((name, 0 if step.name == "aten.convolution" else dim))
    return (feature % step.results[0].dim(), found) if found else None


def _gain(step: Step, lineage: _Lineage) -> tuple[str, int] | None:
    """The parameter of a norm written by hand: a vector that multiplies the last dimension."""
    if step.name == "aten.mul":
        for operand in step.operands:
            if id(operand) in lineage.names and operand.dim() == 1 and operand.numel() > 1:
                return lineage.parameter(operand)
    return None


_TURNS = {"aten.t", "aten.transpose"}
# weight, bias, dimension of the features in the result
_AFFINE: dict[str, tuple[str, str, int]] = {
    "aten.addmm": ("mat2", "self", -1),
    "aten.mm": ("mat2", "", -1),
    "aten.convolution": ("weight", "bias", 1),
    "aten.native_layer_norm": ("weight", "bias", -1),
    "aten._fused_rms_norm": ("weight", "", -1),
    "aten.native_batch_norm": ("weight", "bias", 1),
    "aten._native_batch_norm_legit_no_training": ("weight", "bias", 1),
}
_KEEPS = {"aten.clone", "aten._to_copy", "aten.neg", "aten.mul", "aten.div", "aten.add", "aten.sub"}
_PRODUCTS = {"aten.bmm"}
_VIEWS = {"aten.view", "aten._unsafe_view"}
_SPLITS = {"aten.unbind", "aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_chunk"}
_LAYOUTS = {"aten.t", "aten.transpose", "aten.permute", "aten.unsqueeze", "aten.squeeze", "aten.expand"}
_LAYOUTS |= {"aten.select", "aten.slice", "aten.roll", "aten.cat", "aten.stack", "aten.alias", "aten.detach"}
_FOLLOWED = _KEEPS | _PRODUCTS | _VIEWS | _SPLITS | _LAYOUTS
