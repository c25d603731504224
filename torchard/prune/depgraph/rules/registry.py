"""How a rule says what an ATen operation does to dimensions, and where rules are kept."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchard.prune.depgraph.algebra import Fixed, Node, freeze, leaves, unify
from torchard.prune.depgraph.ledger import Call, Dims, Ledger

Outcome = Dims | Sequence[Dims | None] | None
Rule = Callable[["Op"], Outcome]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of ``aten`` operations named without their overload (``"aten.mm"``).

    The function receives an :class:`Op` and returns the dimensions of the result: a list with one node per
    dimension, for several results a sequence of such lists, ``None`` for a result that is no tensor.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


@dataclass
class Op:
    """One call of an ATen operation: arguments by their schema names, result, and the table to write to."""

    func: Any
    name: str  # "aten.mm": without the overload
    arguments: dict[str, Any]
    operands: list[Tensor]  # every tensor among the arguments
    out: Any
    ledger: Ledger

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def __contains__(self, argument: str) -> bool:
        return argument in self.arguments

    def has(self, argument: str) -> bool:
        """Whether a tensor was given for an optional argument."""
        return isinstance(self.arguments.get(argument), Tensor)

    def dims(self, argument: str) -> Dims:
        """The dimensions of a tensor argument."""
        return list(self.ledger.dims(self.arguments[argument]))

    def dim(self, argument: str = "dim", rank: int | None = None) -> int:
        """An argument that names one dimension, counted from the left."""
        rank = self.arguments["self"].dim() if rank is None else rank
        return int(self.arguments[argument]) % max(rank, 1)

    def fix(self, node: Node, why: str = "") -> Fixed:
        """Freeze a dimension because this operation tells its elements apart."""
        freeze(node, why or f"{self.name} tells its elements apart")
        return Fixed(node.size, why)

    def same(self, first: Node, second: Node) -> None:
        """The two dimensions must lose the same elements."""
        unify(first, second, f"{self.name} with a fixed dimension")

    def statistic(self, over: Iterable[Node], outcome: Outcome, scale: Node | None = None) -> None:
        """Note that the result depends on the entries along ``over``, even on those that are zero."""
        self._note("statistic", over, outcome, scale)

    def contraction(self, over: Iterable[Node], outcome: Outcome) -> None:
        """Note that products are summed over ``over``: zeros there add nothing, other values would."""
        self._note("contraction", over, outcome, None)

    def _note(self, kind: str, over: Iterable[Node], outcome: Outcome, scale: Node | None) -> None:
        if self.ledger.training:
            return
        free = tuple(node for node in over if any(True for _ in leaves(node)))
        if not free and scale is None:
            return
        inputs = tuple(
            list(self.ledger.dims(value)) if isinstance(value, Tensor) else None
            for value in self.arguments.values()
        )
        outputs = tuple(as_results(outcome, self.out))
        call = Call(self.ledger.index, kind, self.name, inputs, outputs, free, scale)
        self.ledger.calls.append(call)

    def cost(self, *factors: Node) -> None:
        """Note multiply-accumulates: the product of the sizes of ``factors``."""
        if not self.ledger.training:
            self.ledger.costs.append(factors)


def as_results(outcome: Outcome, out: Any) -> list[Dims | None]:
    """One entry per tensor of the result, in the order a flattened result has."""
    if outcome is None:
        return []
    if isinstance(out, Tensor):
        return [list(outcome)]  # type: ignore[arg-type]
    return list(outcome)  # type: ignore[arg-type]


def bind_arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by schema name, defaults filled in."""
    names, defaults = _signature(func)
    bound = dict(zip(names, args))
    if len(args) == len(names):
        return bound
    for name in names[len(args) :]:
        if name in kwargs:
            bound[name] = kwargs[name]
        elif name in defaults:
            bound[name] = defaults[name]
    return bound


@functools.cache
def name_of(func: Any) -> str:
    """``"aten.mm"``: an operation without its overload."""
    return func._schema.name.replace("::", ".")


@functools.cache
def _signature(func: Any) -> tuple[list[str], dict[str, Any]]:
    """Names of all arguments, and the defaults there are. To ask torch for them takes long."""
    arguments = func._schema.arguments
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return [argument.name for argument in arguments], defaults


def find_rule(func: Any) -> Rule | None:
    """The rule of an operation: registered under its name, or the pointwise rule where torch tags it so."""
    name = name_of(func)
    if name in RULES:
        return RULES[name]
    return RULES["pointwise"] if _is_pointwise(func, name) else None


@functools.cache
def _is_pointwise(func: Any, name: str) -> bool:
    if torch.Tag.pointwise in func.tags:
        return True
    # In-place forms do not all carry the tag of the form they abbreviate.
    namespace, _, operation = name.partition(".")
    if not operation.endswith("_") or operation.startswith("_"):
        return False
    packet = getattr(getattr(torch.ops, namespace), operation.rstrip("_"), None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)
