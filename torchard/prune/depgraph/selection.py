"""Decide how many units each group keeps, and which."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from torchard.core.budget import Limit
from torchard.prune.depgraph.algebra import Axis
from torchard.prune.depgraph.decision import Plan, plan_for
from torchard.prune.depgraph.graph import DimGraph, Group, Heads, matches
from torchard.prune.depgraph.importance import Criterion, Normalize, Reduce, random_scores, score
from torchard.prune.depgraph.sizes import Equation, axes_of, evaluate
from torchard.prune.depgraph.solver import settle
from torchard.prune.depgraph.target import Target, UnreachableTargetError, as_target

Scope = Literal["local", "global", "isomorphic"]
Cost = Literal["macs", "params"]
OnStale = Literal["freeze", "raise"]
Widths = dict[str, int]


class UnprunableError(ValueError):
    """A layer that was asked for by name cannot be pruned; the message says why."""


class StaleSizeError(ValueError):
    """The model's code holds a size as a plain number that pruning would change; the message says where."""


def plan(
    graph: DimGraph,
    *,
    ratio: float | None = None,
    target: Target | Limit | None = None,
    criterion: Criterion | str = "l2",
    scope: Scope = "local",
    per: Cost | None = None,
    heads: Heads = "dims",
    round_to: int | None = None,
    ratios: Mapping[str, float] | None = None,
    ignore: Iterable[str | nn.Module] = (),
    max_ratio: float = 0.95,
    min_units: int = 1,
    reduce: Reduce = "mean",
    normalize: Normalize | None = "mean",
    seed: int | None = None,
    original: Mapping[str, int] | None = None,
    on_stale: OnStale = "freeze",
) -> Plan:
    """Return which units of which groups should go: plain data, nothing is changed.

    Give ``ratio`` (share of each group's units to remove; about 1 − (1 − ratio)² of the MACs between pruned
    layers) or ``target`` (found by bisection over the ratio, from the dimensions alone unless it is a
    latency). ``scope="local"`` takes the ratio from each group, ``"global"`` from all units ranked together,
    ``"isomorphic"`` from all groups of the same structure ranked together. Such a ranking is by score; with
    ``per="macs"`` or ``"params"`` it is by score per multiply-accumulate or parameter that goes with a unit,
    so that a limit is met where it is cheapest. ``heads`` is explained at
    :meth:`DimGraph.groups`. Kept widths are rounded up to multiples of ``round_to``; ``ratios`` sets the
    ratio of groups by name or pattern; ``max_ratio`` and ``min_units`` bound every group. ``original`` gives
    widths the ratio refers to where they are not the present ones. ``seed`` is for ``criterion="random"``.
    A size that the model's code writes as a plain number (``view(-1, 4, 16)``) freezes the groups it
    depends on; ``on_stale="raise"`` says where it stands instead.

    Raises:
        ValueError: if not exactly one of ``ratio`` and ``target`` is given, or one is out of range, or
            ``per`` is given where nothing is ranked (``scope="local"``) or scores are negative.
        StaleSizeError: if asked for by ``on_stale``, naming the call, the size and the group.
        UnprunableError: if a layer named in ``ratios`` cannot be pruned.
        UnreachableTargetError: if no allowed widths meet the target; holds the nearest plan.
    """
    if (ratio is None) == (target is None):
        raise ValueError("give either `ratio` or `target`")
    wanted = as_target(target) if target is not None else Target()
    bounds = _Bounds(round_to, max_ratio, min_units, dict(ratios or {}), dict(original or {}))
    bounds.check(ratio)
    _check_per(per, scope)
    groups = graph.groups(ignore, heads=heads)
    measure = random_scores(seed or 0) if criterion == "random" else criterion
    scores = {g.id: score(g, measure, reduce=reduce, normalize=normalize).tolist() for g in groups}
    if per is not None:
        _check_scores(scores)
    frozen: dict[Axis, str] = {}
    while True:
        free = [group for group in groups if group.axis not in frozen]
        allocation = _Allocation(graph, free, scores, bounds, scope, per, frozen)
        if on_stale == "raise":
            _refuse_stale(groups, allocation.links.stale)
        widths = allocation.widths(ratio) if ratio is not None else _meet(allocation, wanted)
        new = allocation.misled(widths)
        if not new:
            return allocation.plan(widths)
        if on_stale == "raise":
            _refuse_stale(groups, new)
        frozen |= {leaf: f"{equation.where} relies on its size" for leaf, equation in new.items()}


@dataclass(frozen=True)
class _Bounds:
    round_to: int | None
    max_ratio: float
    min_units: int
    ratios: dict[str, float]
    original: dict[str, int]

    def check(self, ratio: float | None) -> None:
        for name, value in (("ratio", ratio), *((f"ratios[{k!r}]", v) for k, v in self.ratios.items())):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"`{name}={value}` must be at least 0 and below 1")
        if not 0 <= self.max_ratio < 1:
            raise ValueError(f"`max_ratio={self.max_ratio}` must be at least 0 and below 1")
        if self.min_units < 1:
            raise ValueError(f"`min_units={self.min_units}` must be at least 1")
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"`round_to={self.round_to}` must be at least 1")

    def before(self, group: Group) -> int:
        return self.original.get(group.id, group.size)

    def least(self, group: Group) -> int:
        """The smallest width a group may have."""
        least = max(self.min_units, math.ceil(self.before(group) * (1 - self.max_ratio) - 1e-9), 1)
        return min(least, group.size)

    def step(self, group: Group) -> int:
        """What the width of a group should be a multiple of."""
        if self.round_to is None:
            return 1
        return self.round_to // math.gcd(self.round_to, min(member.copies for member in group.members))

    def allowed(self, group: Group, width: int) -> int:
        """Round a width up to what alignment and limits allow."""
        width, step = max(width, self.least(group)), self.step(group)
        return min(math.ceil(width / step) * step, group.size)


class _Allocation:
    """Turns a ratio into widths, and widths into a plan."""

    def __init__(
        self,
        graph: DimGraph,
        groups: Sequence[Group],
        scores: Mapping[str, list[float]],
        bounds: _Bounds,
        scope: Scope,
        per: Cost | None,
        frozen: Mapping[Axis, str],
    ) -> None:
        self.graph, self.bounds, self.per = graph, bounds, per
        self.links = graph.system.links(group.axis for group in groups)
        while self.links.freeze_indivisible():
            stale = self.links.stale
            self.links = graph.system.links(self.links.prunable - self.links.frozen.keys(), self.links.frozen)
            self.links.stale.update(stale)
        self.links.frozen.update(frozen)
        groups = [group for group in groups if group.axis not in self.links.frozen]
        self.groups = list(groups)
        # Ties are broken by index, never by comparing scores: sorting is stable.
        self.order = {g.id: sorted(range(g.size), key=scores[g.id].__getitem__) for g in groups}
        self.scores = scores
        self.special = _special_ratios(graph, groups, bounds.ratios, self.links.frozen)
        self.scopes = _scopes(groups, scope, self.special)
        self.rankings = [self._ranking(members) if len(members) > 1 else [] for members in self.scopes]

    def widths(self, ratio: float) -> Widths:
        """Units each group keeps at one ratio."""
        widths: Widths = {}
        for members, ranking in zip(self.scopes, self.rankings):
            if len(members) == 1:
                group = members[0]
                share = self.special.get(group.id, ratio)
                widths[group.id] = min(group.size, round(self.bounds.before(group) * (1 - share)))
            else:
                widths |= self._ranked(members, ranking, ratio)
        return self.settled({g.id: self.bounds.allowed(g, widths[g.id]) for g in self.groups})

    def settled(self, widths: Widths) -> Widths:
        """Make widths obey the equations of the code."""
        least = {group.axis: self.bounds.least(group) for group in self.groups}
        steps = {group.axis: self.bounds.step(group) for group in self.groups}
        settled = settle(self.links.components(), self.axes(widths), least, steps)
        return {group.id: settled[group.axis] for group in self.groups}

    def misled(self, widths: Widths) -> dict[Axis, Equation]:
        """Axes in equations or comparisons that would come out differently with these widths."""
        axes = self.axes(widths)
        found = {}
        for equation in self.graph.system.violated(axes):
            for leaf in axes_of(equation.left) | axes_of(equation.right):
                if axes.get(leaf, leaf.size) != leaf.size:
                    found[leaf] = equation
        return found

    def plan(self, widths: Widths) -> Plan:
        """Remove the lowest scores down to the given widths."""
        removed = {g.id: sorted(self.order[g.id][: g.size - widths[g.id]]) for g in self.groups}
        made = plan_for(self.graph, {name: units for name, units in removed.items() if units})
        made.frozen.update({self.graph.name_of(leaf): [why] for leaf, why in self.links.frozen.items()})
        return made

    def axes(self, widths: Widths) -> dict[Axis, int]:
        return {group.axis: widths[group.id] for group in self.groups}

    def _ranked(self, members: Sequence[Group], ranking: Sequence[str], ratio: float) -> Widths:
        """Take units from several groups in the order of one ranking."""
        before = sum(self.bounds.before(group) for group in members)
        widths = {group.id: group.size for group in members}
        for name in ranking[: max(sum(widths.values()) - round(before * (1 - ratio)), 0)]:
            widths[name] -= 1
        return widths

    def _ranking(self, members: Sequence[Group]) -> list[str]:
        """Names of groups in the order in which they lose a unit, down to the least widths allowed.

        What a unit saves depends on how wide its neighbours still are, so savings are looked up again after
        each tenth of the units.
        """
        spare = {group.id: group.size - self.bounds.least(group) for group in members}
        units = [
            (name, self.scores[name][unit]) for name in spare for unit in self.order[name][: spare[name]]
        ]
        portion = math.ceil(len(units) / 10) if self.per else len(units)
        ranking: list[str] = []
        while units:
            prices = self._prices(members, Counter(ranking))
            units.sort(key=lambda entry: entry[1] / prices[entry[0]] if prices[entry[0]] > 0 else math.inf)
            ranking += [name for name, _ in units[:portion]]
            del units[:portion]
        return ranking

    def _prices(self, members: Sequence[Group], gone: Mapping[str, int]) -> dict[str, int]:
        """What one more unit of each group saves once ``gone`` have left; 1 where that is not asked for."""
        if self.per is None:
            return dict.fromkeys((group.id for group in members), 1)
        cost = self.graph.macs if self.per == "macs" else self.graph.params
        widths = {group.axis: group.size - gone.get(group.id, 0) for group in members}
        now = cost(widths)
        return {g.id: now - cost({**widths, g.axis: widths[g.axis] - 1}) for g in members}


def _refuse_stale(groups: Sequence[Group], stale: Mapping[Axis, Equation]) -> None:
    for group in groups:
        if (equation := stale.get(group.axis)) is not None:
            size = evaluate(equation.right, {}, {})
            raise StaleSizeError(
                f"{equation.where} is given the size {size} as a plain number, which would change with the "
                f"{group.size} units of group {group.id}; write it as a shape or an attribute, or leave the "
                "group out with `ignore`"
            )


def _check_per(per: Cost | None, scope: Scope) -> None:
    if per not in (None, "macs", "params"):
        raise ValueError(f"`per={per!r}` must be 'macs', 'params' or None")
    if per is not None and scope == "local":
        raise ValueError(
            f"`per={per!r}` ranks units of several groups; give `scope='global'` or 'isomorphic'"
        )


def _check_scores(scores: Mapping[str, list[float]]) -> None:
    for name, values in scores.items():
        if min(values) < 0:
            raise ValueError(
                f"group {name} has a score below zero, which `per` cannot weigh; leave it out "
                "or choose another `criterion` or `normalize`"
            )


def _special_ratios(
    graph: DimGraph, groups: Sequence[Group], ratios: Mapping[str, float], frozen: Mapping[Axis, str]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for pattern, ratio in ratios.items():
        names = {name for name in graph.tensors if matches(name, pattern)}
        if not names:
            raise ValueError(f"`ratios` names {pattern!r}, which no parameter of the model matches")
        chosen = [group for group in groups if _puts_out(group, names)]
        if not chosen and ratio > 0:
            reasons = graph.frozen() | {graph.name_of(leaf): [why] for leaf, why in frozen.items()}
            why = [
                f"{name}: {'; '.join(r)}" for name, r in reasons.items() if name.partition(":")[0] in names
            ]
            raise UnprunableError(f"{pattern!r} cannot be pruned ({' | '.join(why[:3]) or 'ignored'})")
        found |= {group.id: ratio for group in chosen}
    return found


def _puts_out(group: Group, names: set[str]) -> bool:
    return any(member.name in names and member.role not in ("in", "buffer") for member in group.members)


def _scopes(groups: Sequence[Group], scope: Scope, special: Mapping[str, float]) -> list[list[Group]]:
    """Groups that are ranked together."""
    if scope not in ("local", "global", "isomorphic"):
        raise ValueError(f"`scope={scope!r}` must be 'local', 'global' or 'isomorphic'")
    keys: dict[object, list[Group]] = {}
    for place, group in enumerate(groups):
        apart = scope == "local" or group.id in special
        key: object = place if apart else structure(group) if scope == "isomorphic" else "all"
        keys.setdefault(key, []).append(group)
    return list(keys.values())


def structure(group: Group) -> tuple[tuple[str, str, int, bool], ...]:
    """What makes two groups isomorphic: kinds of layers, roles and ranks of members, sizes left out."""
    return tuple(sorted((m.kind, m.role, m.tensor.dim(), m.copies > 1) for m in group.members))


def _meet(allocation: _Allocation, target: Target) -> Widths:
    """Bisect the ratio, then give back single groups' units while the limits hold."""
    costs = _Costs(allocation, target)
    high = max(allocation.bounds.max_ratio, 0.0)
    best = allocation.widths(high)
    if costs.excess(best) > 0:
        nearest = allocation.plan(best)
        raise UnreachableTargetError(
            f"the target {costs.describe_limits()} cannot be reached; the least is {costs.describe(best)} "
            f"with max_ratio={allocation.bounds.max_ratio}",
            nearest,
        )
    whole = allocation.widths(0.0)
    if costs.excess(whole) <= 0:
        return whole
    low, above = 0.0, whole
    for _ in range(costs.steps):
        middle = (low + high) / 2
        widths = allocation.widths(middle)
        if costs.excess(widths) <= 0:
            high, best = middle, widths
        else:
            low, above = middle, widths
    return _give_back(allocation, costs, best, above)


def _give_back(allocation: _Allocation, costs: "_Costs", best: Widths, above: Widths) -> Widths:
    """Raise single groups to the width they have just above the target, as long as it is still met."""
    if not costs.cheap:
        return best
    for name, width in above.items():
        if width > best[name]:
            trial = allocation.settled({**best, name: width})
            if all(trial[n] >= best[n] for n in best) and costs.excess(trial) <= 0:
                best = trial
    return _fill_up(allocation, costs, best)


def _fill_up(allocation: _Allocation, costs: "_Costs", best: Widths) -> Widths:
    """Widen one group after another by a step, the most cut first, until the target is nearly used up."""
    groups = {group.id: group for group in allocation.groups}
    stuck: set[str] = set()
    while costs.excess(best) < -_CLOSE and len(stuck) < len(groups):
        name = min((n for n in groups if n not in stuck), key=lambda n: best[n] / groups[n].size)
        wider = allocation.bounds.allowed(groups[name], best[name] + 1)
        trial = allocation.settled({**best, name: wider})
        if trial[name] > best[name] and costs.excess(trial) <= 0:
            best = trial
        else:
            stuck.add(name)
    return best


_CLOSE = 0.005  # of the limit may be left unused


class _Costs:
    """How far widths are above the limits of a target, as a share of each limit."""

    def __init__(self, allocation: _Allocation, target: Target) -> None:
        self.allocation, self.target = allocation, target
        self.graph = allocation.graph
        self.limits = target.limits()
        self.cheap = target.latency is None
        # Widths come from arithmetic; a latency costs a copy of the model and a timing.
        self.steps = 60 if self.cheap else 8
        if not self.cheap and target.measure is None:
            raise ValueError(
                "a latency target needs `measure`, a function of a model that returns milliseconds"
            )
        self.before = {limit.quantity: self._amount(limit.quantity, None) for limit in self.limits}

    def excess(self, widths: Widths) -> float:
        """Largest relative excess over a limit; at most zero when all hold."""
        shares = []
        for limit in self.limits:
            allowed = limit.amount(self.before[limit.quantity])
            shares.append(self._amount(limit.quantity, widths) / allowed - 1)
        return max(shares)

    def describe(self, widths: Widths) -> str:
        return ", ".join(f"{q} {self._amount(q, widths) / b:.3g}x" for q, b in self.before.items())

    def describe_limits(self) -> str:
        return ", ".join(f"{limit.quantity} {limit}" for limit in self.limits)

    def _amount(self, quantity: str, widths: Widths | None) -> int | float:
        axes = self.allocation.axes(widths) if widths is not None else {}
        if quantity == "macs":
            return self.graph.macs(axes)
        if quantity == "params":
            return self.graph.params(axes)
        return self._latency(widths)

    def _latency(self, widths: Widths | None) -> float:
        from torchard.prune.depgraph.cutting import apply

        assert self.target.measure is not None
        if widths is None:
            return self.target.measure(self.graph.model)
        trial = apply(self.graph.model, self.allocation.plan(widths), inplace=False)
        return self.target.measure(trial.model)
