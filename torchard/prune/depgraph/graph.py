"""The result of a trace: which elements of which parameters depend on each other."""

import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from torchard.prune.depgraph.algebra import Axis, Node, Prod, leaves, parts_of, reasons, resolve, units, width
from torchard.prune.depgraph.ledger import Call, Dims, Ledger
from torchard.prune.depgraph.scaling import Site, find_sites
from torchard.prune.depgraph.sizes import Notebook, axes_of, evaluate
from torchard.prune.depgraph.solver import System

Heads = Literal["dims", "heads", "both", "none"]


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter or buffer that holds units of a group.

    ``copies`` tells how many groups of a grouped layer repeat each unit.
    """

    name: str
    dim: int
    role: str  # out, in, depthwise, norm, bias, bare, buffer
    kind: str  # the type of the module that owns it
    tensor: Tensor
    node: Node  # what the dimension consists of
    axis: Axis  # the group's part in it
    copies: int

    @cached_property
    def places(self) -> tuple[Sequence[int], Sequence[int]]:
        """Positions along the dimension, and the unit that each belongs to."""
        return units(self.node, self.axis)


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can only be removed together, wherever they are stored."""

    id: str
    axis: Axis
    members: tuple[Member, ...]
    tags: frozenset[str]

    @property
    def size(self) -> int:
        """Number of units."""
        return self.axis.size

    def remove_preview(self, indices: Sequence[int]) -> dict[str, dict[int, list[int]]]:
        """Positions that go when units ``indices`` go: parameter name → dimension → positions."""
        chosen = set(indices)
        preview: dict[str, dict[int, list[int]]] = {}
        for member in self.members:
            gone = sorted({position for position, unit in zip(*member.places) if unit in chosen})
            preview.setdefault(member.name, {})[member.dim] = gone
        return preview


@dataclass(eq=False)
class DimGraph:
    """Dimensions of every parameter and buffer of one model as expressions over shared axes."""

    model: nn.Module
    tensors: dict[str, Tensor]
    dims: dict[str, Dims]
    owners: dict[str, type[nn.Module]]  # types of the modules the tensors belong to
    roles: dict[str, str]
    conv_groups: dict[str, Node]
    costs: list[tuple[Node, ...]]
    calls: list[Call]
    unknown: Counter[str]
    untouched: tuple[str, ...]
    system: System
    operations: tuple[str, ...]
    sites: list[Site] = field(default_factory=list)
    original: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def from_ledger(
        cls,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        ledger: Ledger,
        names: dict[str, Tensor],
        notebook: Notebook,
    ) -> "DimGraph":
        """Keep of a trace what concerns parameters and buffers, and let the activations go."""
        by_id = {id(tensor): name for name, tensor in names.items()}
        parameters = {key: name for key, name in by_id.items() if isinstance(names[name], nn.Parameter)}
        # From here on no axis is bound any more: what stands for a dimension now does so for good.
        dims = {name: [resolve(node) for node in ledger.known[id(t)][1]] for name, t in names.items()}
        owned = {leaf for nodes in dims.values() for node in nodes for leaf in leaves(node)}
        return cls(
            model=model,
            tensors=names,
            dims=dims,
            owners={name: type(modules[owner_path(name)]) for name in names},
            roles={by_id[key]: role for key, role in ledger.roles.items() if key in by_id},
            conv_groups={by_id[key]: node for key, node in ledger.weights_of.items() if key in by_id},
            costs=ledger.costs,
            calls=ledger.calls,
            unknown=ledger.unknown,
            untouched=tuple(name for key, name in parameters.items() if key not in ledger.touched),
            system=System.of(notebook, owned),
            operations=tuple(ledger.operations),
            sites=find_sites(ledger, notebook, parameters),
            original={name: tuple(tensor.shape) for name, tensor in names.items()},
        )

    def groups(
        self, ignore: Iterable[str | nn.Module] = (), min_size: int = 2, *, heads: Heads = "dims"
    ) -> list[Group]:
        """Return what can be pruned, in the order of the parameters.

        ``ignore`` leaves out every group with a parameter in one of these modules or under one of these
        names or glob patterns. ``heads`` decides what may go where a reshape shows several free axes in one
        dimension (heads × head width, groups × channels): the last, all but the last, both, or none.
        """
        axes = self._owners()
        blocked = self._blocked(heads)
        ignored = self._ignored(ignore)
        tagged = self._statistic_axes()
        found = []
        for leaf, places in axes.items():
            if leaf.size < min_size or leaf in blocked or ignored & {name for name, _ in places}:
                continue
            members = tuple(self._member(name, dim, leaf) for name, dim in places)
            if any(m.role != "buffer" and m.name not in self.untouched for m in members):
                tags = tagged.get(leaf, frozenset())
                found.append(Group(self._id(leaf, places), leaf, members, tags))
        return found

    def macs(self, widths: Mapping[Axis, int] | None = None) -> int:
        """Multiply-accumulates of the traced pass when each axis has the number of units in ``widths``."""
        total = 0
        for factors in self.costs:
            product = 1
            for factor in factors:
                product *= width(factor, widths or {})
            total += product
        return total

    def params(self, widths: Mapping[Axis, int] | None = None) -> int:
        """Parameters (without buffers) when each axis has the number of units in ``widths``."""
        total = 0
        for name, dims in self.dims.items():
            if isinstance(self.tensors[name], nn.Parameter):
                product = 1
                for node in dims:
                    product *= width(node, widths or {})
                total += product
        return total

    def frozen(self) -> dict[str, list[str]]:
        """Parameter dimensions of which no part can be pruned, with the reasons."""
        found = {}
        for name, dims in self.dims.items():
            for dim, node in enumerate(dims if isinstance(self.tensors[name], nn.Parameter) else ()):
                if node.size > 1 and not any(True for _ in leaves(node)) and (why := reasons(node)):
                    found[f"{name}:{dim}"] = why
        return found

    def changed_sites(self, widths: Mapping[Axis, int]) -> list[tuple[Site, float]]:
        """Operations that scale by sizes these widths change, with the factor that would make up for it."""
        attributes = self.system.attributes(widths)
        factors = [(site, site.factor(widths, attributes)) for site in self.sites]
        return [(site, factor) for site, factor in factors if factor != 1]

    def changes_scale(self, widths: Mapping[Axis, int]) -> bool:
        """Whether a number made from sizes changes with these widths and nothing can make up for it."""
        changed = self.changed_sites(widths)
        attributes = self.system.attributes(widths)
        made_up = {site.index for site, _ in changed}
        return any(not site.parts for site, _ in changed) or any(
            evaluate(note.expression, widths, attributes) != note.value
            for note in self.system.notebook.scalings
            if made_up.isdisjoint(range(note.first, note.last))
        )

    def report(self) -> str:
        """Return a table of the groups, then what is frozen and why, then operations without a rule."""
        groups = self.groups()
        lines = [f"{len(groups)} groups", f"{'group':<56} {'units':>6} {'members':>8}  tags"]
        for group in groups:
            tags = ", ".join(sorted(group.tags))
            lines.append(f"{group.id:<56} {group.size:>6} {len(group.members):>8}  {tags}".rstrip())
        if frozen := self.frozen():
            lines += ["", "frozen"] + [f"{name:<56} {'; '.join(why)}" for name, why in frozen.items()]
        if self.unknown:
            lines += ["", "operations without a rule"]
            lines += [f"{name:<56} {count:>6}" for name, count in self.unknown.items()]
        if self.untouched:
            lines += ["", "parameters the example never used", *self.untouched]
        return "\n".join(lines)

    def name_of(self, leaf: Axis) -> str:
        """A name for a free axis: that of its group."""
        return self._id(leaf, self._owners()[leaf])

    def fingerprint(self) -> str:
        """Identify the shapes this graph was made for."""
        return fingerprint(self.original)

    def _owners(self) -> dict[Axis, list[tuple[str, int]]]:
        """Every free axis with the (parameter, dimension) places that mention it."""
        owners: dict[Axis, list[tuple[str, int]]] = {}
        for name, dims in self.dims.items():
            for dim, node in enumerate(dims):
                for leaf in dict.fromkeys(leaves(node)):
                    owners.setdefault(leaf, []).append((name, dim))
        return owners

    def _blocked(self, heads: Heads) -> set[Axis]:
        chosen: set[Axis] = set()
        blocked: set[Axis] = set()
        for dims in self.dims.values():
            for node in dims:
                _choose(resolve(node), heads, chosen, blocked)
        return blocked

    def _ignored(self, ignore: Iterable[str | nn.Module]) -> set[str]:
        wanted = [ignore] if isinstance(ignore, (str, nn.Module)) else list(ignore)
        patterns = [entry for entry in wanted if isinstance(entry, str)]
        tensors = {id(t) for entry in wanted if isinstance(entry, nn.Module) for t in entry.parameters()}
        found = {name for name, tensor in self.tensors.items() if id(tensor) in tensors}
        for pattern in patterns:
            names = {name for name in self.tensors if matches(name, pattern)}
            if not names:
                raise ValueError(f"`ignore` holds {pattern!r}, which no parameter of the model matches")
            found |= names
        return found

    def _statistic_axes(self) -> dict[Axis, frozenset[str]]:
        tags: dict[Axis, set[str]] = {}
        for note in self.calls:
            for node in note.over if note.kind == "statistic" else ():
                for leaf in leaves(node):
                    tags.setdefault(leaf, set()).add("changes_statistics")
            for leaf in leaves(note.scale) if note.scale is not None else ():
                tags.setdefault(leaf, set()).add("changes_scale")
        for scaling in self.system.notebook.scalings:
            for leaf in axes_of(scaling.expression):
                tags.setdefault(leaf, set()).add("changes_scale")
        return {leaf: frozenset(found) for leaf, found in tags.items()}

    def _member(self, name: str, dim: int, leaf: Axis) -> Member:
        node, owner = self.dims[name][dim], self.owners[name]
        role = self._role(name, dim, leaf, owner)
        return Member(name, dim, role, owner.__name__, self.tensors[name], node, leaf, _copies(node, leaf))

    def _role(self, name: str, dim: int, leaf: Axis, owner: type[nn.Module]) -> str:
        tensor = self.tensors[name]
        if not isinstance(tensor, nn.Parameter):
            return "buffer"
        if name in self.roles:
            return self.roles[name]
        if name in self.conv_groups and leaf in set(leaves(self.conv_groups[name])):
            return "depthwise"
        order = _WEIGHT_ROLES.get(owner.__name__) if tensor.dim() > 1 else None
        if order is None and issubclass(owner, nn.Linear):
            order = ("out", "in")
        return order[dim] if order is not None and dim < 2 else "bare"

    def _id(self, leaf: Axis, places: Sequence[tuple[str, int]]) -> str:
        parameters = [place for place in places if isinstance(self.tensors[place[0]], nn.Parameter)]
        name, dim = (parameters or places)[0]
        within = list(dict.fromkeys(leaves(self.dims[name][dim])))
        part = f"/{within.index(leaf)}" if len(within) > 1 else ""
        return f"{name}{f':{dim}' if dim else ''}{part}"


_WEIGHT_ROLES = {
    "Linear": ("out", "in"),
    "NonDynamicallyQuantizableLinear": ("out", "in"),
    "Conv1d": ("out", "in"),
    "Conv2d": ("out", "in"),
    "Conv3d": ("out", "in"),
    "ConvTranspose1d": ("in", "out"),
    "ConvTranspose2d": ("in", "out"),
    "ConvTranspose3d": ("in", "out"),
    "Conv1D": ("in", "out"),  # the linear layer of GPT-2 in transformers
}


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """A short digest of parameter names and shapes."""
    text = json.dumps({name: list(shape) for name, shape in sorted(shapes.items())})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter's name is ``pattern``, lies below it, or fits it as a shell glob."""
    return (
        name == pattern
        or name.startswith(f"{pattern}.")
        or fnmatch.fnmatchcase(name, pattern)
        or fnmatch.fnmatchcase(name, f"{pattern}.*")
    )


def owner_path(name: str) -> str:
    """Where the module is that holds a parameter; for a parametrised one, the module it belongs to."""
    return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _choose(node: Node, heads: Heads, chosen: set[Axis], blocked: set[Axis]) -> None:
    """Sort the free axes of each product in a dimension into those that may go and those that may not.

    What an earlier dimension chose stands: after a shuffle the same two axes come in the other order.
    """
    for part in parts_of(node):
        _choose(part, heads, chosen, blocked)
    if not isinstance(node, Prod) or heads == "both":
        return
    free = [found for part in parts_of(node) if (found := dict.fromkeys(leaves(part)))]
    axes = {leaf for found in free for leaf in found}
    if len(free) < 2 or len(axes) < 2:
        return
    slow, last = {leaf for found in free[:-1] for leaf in found}, set(free[-1])
    wanted = {"dims": last, "heads": slow - last, "none": set()}[heads]
    keep = axes & chosen if heads == "dims" and axes & chosen else wanted
    chosen |= keep
    blocked |= axes - keep - chosen


def _copies(node: Node, leaf: Axis) -> int:
    """How many times other free axes (groups of a layer) repeat each unit; fixed repeats do not count."""
    if node is leaf or not parts_of(node):
        return 1
    holding = [part for part in parts_of(node) if leaf in set(leaves(part))]
    inner = max(_copies(part, leaf) for part in holding) if holding else 1
    if isinstance(node, Prod):
        for part in parts_of(node):
            if part not in holding and isinstance(part, Axis):
                inner *= part.size
    return inner
