"""A pruning decision as plain data, and what it costs before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torchard.prune.depgraph.algebra import Axis, kept, leaves, width
from torchard.prune.depgraph.graph import DimGraph, Group


@dataclass(frozen=True)
class Plan:
    """Which units go, and what that does to each parameter: plain data, independent of graph and model."""

    removed: dict[str, list[int]]  # group → units
    widths: dict[str, tuple[int, int]]  # group → units before, after
    slices: dict[str, dict[int, list[int]]]  # parameter or buffer → dimension → positions kept
    shapes: dict[str, tuple[int, ...]]  # of everything, before
    conv_groups: dict[str, int]  # grouped kernel → groups afterwards
    attributes: list[tuple[str, str, int | None, int]]  # module, attribute, place in it, value afterwards
    params: tuple[int, int]
    macs: tuple[int, int]
    tags: tuple[str, ...] = ()
    frozen: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    # Parameter, dimension, positions afterwards, factor: makes up for scales that come from widths.
    rescaled: list[tuple[str, int, list[int], float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Rebuild a plan; JSON turned dimension numbers into strings and tuples into lists."""
        return cls(
            removed={name: [int(unit) for unit in units] for name, units in data["removed"].items()},
            widths={name: (int(a), int(b)) for name, (a, b) in data["widths"].items()},
            slices={
                name: {int(dim): [int(position) for position in keep] for dim, keep in dims.items()}
                for name, dims in data["slices"].items()
            },
            shapes={name: tuple(int(size) for size in shape) for name, shape in data["shapes"].items()},
            conv_groups={name: int(groups) for name, groups in data["conv_groups"].items()},
            attributes=[(str(m), str(a), place, int(value)) for m, a, place, value in data["attributes"]],
            params=(int(data["params"][0]), int(data["params"][1])),
            macs=(int(data["macs"][0]), int(data["macs"][1])),
            tags=tuple(data["tags"]),
            frozen={name: list(why) for name, why in data["frozen"].items()},
            fingerprint=str(data["fingerprint"]),
            rescaled=[
                (str(name), int(dim), [int(position) for position in positions], float(factor))
                for name, dim, positions, factor in data.get("rescaled", ())
            ],
        )


def plan_for(graph: DimGraph, removed: Mapping[str, Sequence[int]]) -> Plan:
    """Return the plan that removes the named units of the named groups.

    Raises:
        ValueError: for an unknown group, a unit outside it, or a group left empty.
    """
    groups = {group.id: group for group in graph.groups(heads="both")}
    chosen: dict[Group, list[int]] = {}
    for name, units in removed.items():
        chosen[_known(groups, name)] = _checked(groups[name], units)
    chosen = {group: units for group, units in chosen.items() if units}
    keep = {g.axis: sorted(set(range(g.size)) - set(units)) for g, units in chosen.items()}
    return _build(graph, chosen, keep)


def merge(graph: DimGraph, first: Plan, second: Plan) -> Plan:
    """Return the plan that removes what either of two plans for ``graph`` removes."""
    names = [*first.removed, *(name for name in second.removed if name not in first.removed)]
    both = {name: sorted({*first.removed.get(name, ()), *second.removed.get(name, ())}) for name in names}
    return plan_for(graph, both)


def _known(groups: Mapping[str, Group], name: str) -> Group:
    if name not in groups:
        raise ValueError(f"the model has no group {name!r}; its groups are {', '.join(list(groups)[:5])}, …")
    return groups[name]


def _checked(group: Group, units: Sequence[int]) -> list[int]:
    chosen = sorted(set(units))
    if chosen and not (chosen[0] >= 0 and chosen[-1] < group.size):
        raise ValueError(f"group {group.id} has units 0 to {group.size - 1}, not {chosen[0]} to {chosen[-1]}")
    if len(chosen) >= group.size:
        raise ValueError(f"removing all {group.size} units of group {group.id} would leave nothing")
    return chosen


def _build(graph: DimGraph, chosen: Mapping[Group, list[int]], keep: Mapping[Axis, list[int]]) -> Plan:
    widths = {leaf: len(units) for leaf, units in keep.items()}
    widths = {**graph.system.phantoms(widths), **widths}
    tags = {tag for group in chosen for tag in group.tags}
    if not graph.changes_scale(widths):
        tags.discard("changes_scale")
    slices = _slices(graph, keep)
    return Plan(
        removed={group.id: units for group, units in chosen.items()},
        widths={group.id: (group.size, widths[group.axis]) for group in chosen},
        slices=slices,
        shapes=dict(graph.original),
        conv_groups={name: width(node, widths) for name, node in graph.conv_groups.items()},
        attributes=_attributes(graph, widths),
        params=(graph.params(), graph.params(widths)),
        macs=(graph.macs(), graph.macs(widths)),
        tags=tuple(sorted(tags)),
        frozen=graph.frozen(),
        fingerprint=graph.fingerprint(),
        rescaled=_rescaled(graph, widths, slices),
    )


def _rescaled(
    graph: DimGraph, widths: Mapping[Axis, int], slices: Mapping[str, Mapping[int, list[int]]]
) -> list[tuple[str, int, list[int], float]]:
    found = []
    for site, factor in graph.changed_sites(widths):
        for part in site.parts:
            size = graph.original[part.name][part.dim]
            held = slices.get(part.name, {}).get(part.dim, range(size))
            positions = [place for place, position in enumerate(held) if position in part.positions]
            found.append((part.name, part.dim, positions, factor))
    return found


def _attributes(graph: DimGraph, widths: Mapping[Axis, int]) -> list[tuple[str, str, int | None, int]]:
    before = graph.system.attributes({})
    after = graph.system.attributes(widths)
    return [(*key, value) for key, value in after.items() if value != before.get(key)]


def _slices(graph: DimGraph, keep: Mapping[Axis, list[int]]) -> dict[str, dict[int, list[int]]]:
    slices: dict[str, dict[int, list[int]]] = {}
    for name, dims in graph.dims.items():
        for dim, node in enumerate(dims):
            if any(leaf in keep for leaf in leaves(node)):
                slices.setdefault(name, {})[dim] = kept(node, keep)
    return slices
