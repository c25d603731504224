"""Tensor dimensions as expressions over axes: what must be removed together, as arithmetic.

A dimension is a tree in row-major order. ``Sum`` is concatenation, ``Prod`` is a merge by reshape (slowest
factor first), ``Fixed(n)`` can never lose an element, and an ``Axis`` is a set of units that live and die
together wherever the axis is mentioned. Three operations do everything: :func:`cut`, :func:`peel` and
:func:`unify`. Where no exact answer exists they freeze the axes concerned, which is always sound.

Every axis is bound at most once: to another axis, to a tree of smaller axes, or to ``Fixed``. Trees are
therefore resolved again before each read; since a binding always goes to strictly smaller axes (or unites
two), everything terminates, and no tree has more leaves than its dimension has elements.

Pure Python: this module knows nothing of tensors.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

_serials = itertools.count()


@dataclass(frozen=True, slots=True)
class Fixed:
    """A stretch of elements that always stay; it splits at any radix or boundary."""

    size: int
    reason: str = field(default="", compare=False)


class Axis:
    """A set of removable units, shared by every dimension that mentions it."""

    __slots__ = ("bound", "reason", "serial", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.serial = next(_serials)
        self.bound: Node | None = None
        self.reason = ""

    def __repr__(self) -> str:
        return f"a{self.serial}[{self.size}]"


@dataclass(frozen=True, slots=True)
class Prod:
    """Factors merged by a reshape, the slowest first; at least two."""

    factors: tuple["Node", ...]
    size: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Terms laid end to end; at least two."""

    terms: tuple["Node", ...]
    size: int


Node: TypeAlias = Fixed | Axis | Prod | Sum


def axis(size: int) -> Node:
    """A new free axis; a single element is ``Fixed``, since the last unit is never removed."""
    return Axis(size) if size > 1 else Fixed(size)


def resolve(node: Node) -> Node:
    """Return ``node`` in normal form with every bound axis replaced by what it stands for."""
    if isinstance(node, Axis):
        return node if node.bound is None else _follow(node)
    if isinstance(node, Fixed) or _is_settled(node):
        return node
    return prod(*node.factors) if isinstance(node, Prod) else concat(*node.terms)


def prod(*nodes: Node) -> Node:
    """Merge dimensions row-major, the first varying slowest."""
    factors: list[Node] = []
    for node in nodes:
        for factor in factors_of(resolve(node)):
            _append_factor(factors, factor)
    if not factors:
        return Fixed(1)
    if len(factors) == 1:
        return factors[0]
    if isinstance(factors[0], Sum):
        return concat(*(prod(term, *factors[1:]) for term in factors[0].terms))
    return Prod(tuple(factors), math.prod(factor.size for factor in factors))


def concat(*nodes: Node) -> Node:
    """Lay dimensions end to end."""
    terms: list[Node] = []
    for node in nodes:
        for term in terms_of(resolve(node)):
            _append_term(terms, term)
    if not terms:
        return Fixed(0)
    return terms[0] if len(terms) == 1 else Sum(tuple(terms), sum(term.size for term in terms))


def terms_of(node: Node) -> tuple[Node, ...]:
    """The parts of a concatenation; any other node is its own single part."""
    if isinstance(node, Sum):
        return node.terms
    return (node,) if node.size else ()


def factors_of(node: Node) -> tuple[Node, ...]:
    """The parts of a merge; any other node is its own single part, and size one has none."""
    if isinstance(node, Prod):
        return node.factors
    return (node,) if node.size != 1 else ()


def leaves(node: Node) -> Iterator[Axis]:
    """Every occurrence of a free axis in ``node``, left to right."""
    return _leaves(resolve(node))


def parts_of(node: Node) -> tuple[Node, ...]:
    """The direct children of a resolved node."""
    if isinstance(node, Prod):
        return node.factors
    return node.terms if isinstance(node, Sum) else ()


def freeze(node: Node, reason: str) -> None:
    """Bind every free axis of ``node`` to ``Fixed``, remembering why."""
    for leaf in list(leaves(node)):
        if leaf.bound is None:
            leaf.bound, leaf.reason = Fixed(leaf.size, reason), reason


def cut(node: Node, at: int) -> tuple[Node, Node]:
    """Split a dimension into its first ``at`` elements and the rest, refining or freezing axes as needed."""
    node = resolve(node)
    if not 0 <= at <= node.size:
        raise ValueError(f"`at={at}` is outside a dimension of {node.size}")
    before: list[Node] = []
    terms = list(terms_of(node))
    while terms and terms[0].size <= at:
        at -= terms[0].size
        before.append(terms.pop(0))
    if at == 0:
        return concat(*before), concat(*terms)
    left, right = _cut_term(terms[0], at)
    return concat(*before, left), concat(right, *terms[1:])


def peel(node: Node, size: int) -> tuple[Node, Node]:
    """Split a dimension row-major into (slow, fast) with ``size`` elements in the fast part."""
    node = resolve(node)
    if size <= 0 or node.size % size:
        raise ValueError(f"a dimension of {node.size} has no row-major split with a fast part of {size}")
    if size == 1:
        return node, Fixed(1)
    if size == node.size:
        return Fixed(1), node
    terms = terms_of(node)
    if len(terms) == 1:
        return _peel_term(node, size)
    if any(term.size % size for term in terms):
        freeze(node, "a reshape cuts across a concatenation")
        return Fixed(node.size // size), Fixed(size)
    return _peel_terms(terms, size)


def unify(first: Node, second: Node, reason: str = "") -> None:
    """Make two dimensions of equal size lose the same elements from now on.

    ``reason`` is kept for axes frozen because the other side cannot follow.
    """
    if first.size != second.size:
        raise ValueError(f"dimensions of {first.size} and {second.size} elements cannot be the same")
    pending = [(first, second)]
    while pending:
        left, right = (resolve(node) for node in pending.pop())
        if left != right:
            pending += _unify_once(left, right, reason)


def kept(node: Node, keep: Mapping[Axis, Sequence[int]]) -> list[int]:
    """Flat indices of ``node`` that survive when each axis in ``keep`` retains only the units listed."""
    return _kept(resolve(node), keep)


def width(node: Node, widths: Mapping[Axis, int]) -> int:
    """Size of ``node`` when each axis in ``widths`` has the number of units given there."""
    return _width(resolve(node), widths)


def units(node: Node, of: Axis) -> tuple[Sequence[int], Sequence[int]]:
    """Flat indices of the elements of ``node`` that belong to units of axis ``of``, and to which."""
    return _units(resolve(node), of)


def reasons(node: Node) -> list[str]:
    """Why parts of a dimension are fixed, each reason once; empty if every part is free."""
    return list(dict.fromkeys(_reasons(resolve(node))))


# The functions below take resolved nodes and do not resolve again. They are called for every dimension of a
# model and carry no checked types, which would cost more than what they do.


def _is_settled(node):  # type: ignore[no-untyped-def]
    """Whether no axis was bound since the node was made; it has the normal form it was made in."""
    for part in node.factors if isinstance(node, Prod) else node.terms:
        if isinstance(part, Axis):
            if part.bound is not None:
                return False
        elif not isinstance(part, Fixed) and not _is_settled(part):
            return False
    return True


def _leaves(node):  # type: ignore[no-untyped-def]
    if isinstance(node, Axis):
        yield node
    elif not isinstance(node, Fixed):
        for part in node.factors if isinstance(node, Prod) else node.terms:
            yield from _leaves(part)


def _kept(node, keep):  # type: ignore[no-untyped-def]
    if isinstance(node, Axis):
        return list(keep.get(node, range(node.size)))
    if isinstance(node, Prod):
        flat = [0]
        for factor in node.factors:
            inner = _kept(factor, keep)
            flat = [slow * factor.size + fast for slow in flat for fast in inner]
        return flat
    if isinstance(node, Sum):
        starts = itertools.accumulate((term.size for term in node.terms), initial=0)
        return [start + index for start, term in zip(starts, node.terms) for index in _kept(term, keep)]
    return list(range(node.size))


def _width(node, widths):  # type: ignore[no-untyped-def]
    if isinstance(node, Axis):
        return widths.get(node, node.size)
    if isinstance(node, Prod):
        return math.prod(_width(factor, widths) for factor in node.factors)
    if isinstance(node, Sum):
        return sum(_width(term, widths) for term in node.terms)
    return node.size


def _units(node, of):  # type: ignore[no-untyped-def]
    if node is of:
        return range(of.size), range(of.size)
    if isinstance(node, Sum):
        starts = itertools.accumulate((term.size for term in node.terms), initial=0)
        placed = [(start, *_units(term, of)) for start, term in zip(starts, node.terms)]
        flat = [start + index for start, indices, _ in placed for index in indices]
        return flat, [unit for _, _, inner in placed for unit in inner]
    return _units_of_product(node, of) if isinstance(node, Prod) else ((), ())


def _reasons(node):  # type: ignore[no-untyped-def]
    if isinstance(node, Fixed):
        return [node.reason] if node.reason else []
    return [reason for part in parts_of(node) for reason in _reasons(part)]


def _follow(start: Axis) -> Node:
    assert start.bound is not None
    start.bound = resolve(start.bound)  # shortens chains of bindings
    return start.bound


def _append_factor(factors: list[Node], factor: Node) -> None:
    last = factors[-1] if factors else None
    if isinstance(factor, Fixed) and isinstance(last, Fixed):
        factors[-1] = Fixed(last.size * factor.size, last.reason or factor.reason)
    else:
        factors.append(factor)


def _append_term(terms: list[Node], term: Node) -> None:
    """Append, merging ``n·x`` and ``m·x`` into ``(n+m)·x``."""
    if terms:
        count, rest, reason = _copies(terms[-1])
        more, other, other_reason = _copies(term)
        if rest == other:
            total = Fixed(count + more, reason or other_reason)
            terms[-1] = prod(total, *rest) if rest else total
            return
    terms.append(term)


def _copies(term: Node) -> tuple[int, tuple[Node, ...], str]:
    """Read a term as so many copies of the rest."""
    factors = factors_of(term)
    if factors and isinstance(factors[0], Fixed):
        return factors[0].size, factors[1:], factors[0].reason
    return 1, factors, ""


def _cut_term(term: Node, at: int) -> tuple[Node, Node]:
    """Cut inside one term, 0 < at < its size."""
    lead, *others = factors_of(term)
    rest = prod(*others)
    whole, inside = divmod(at, rest.size)
    if inside == 0:
        left, right = _cut_leading(lead, whole)
        return prod(left, rest), prod(right, rest)
    if isinstance(lead, Axis):
        freeze(lead, "a slice cuts across a merged dimension")
    inner_left, inner_right = cut(rest, inside)
    return (
        concat(prod(Fixed(whole), rest), inner_left),
        concat(inner_right, prod(Fixed(lead.size - whole - 1), rest)),
    )


def _cut_leading(lead: Node, at: int) -> tuple[Node, Node]:
    if isinstance(lead, Fixed):
        return Fixed(at, lead.reason), Fixed(lead.size - at, lead.reason)
    assert isinstance(lead, Axis)  # a sum never leads a product
    left, right = axis(at), axis(lead.size - at)
    lead.bound = concat(left, right)
    return left, right


def _peel_terms(terms: Sequence[Node], size: int) -> tuple[Node, Node]:
    slows: list[Node] = []
    common: Node | None = None
    for term in terms:
        slow, fast = peel(term, size)
        slows.append(slow)
        if common is None:
            common = fast
        else:
            unify(common, fast)
    assert common is not None
    return concat(*slows), resolve(common)


def _peel_term(term: Node, size: int) -> tuple[Node, Node]:
    """Take factors from the right, splitting the one that overshoots."""
    factors = list(factors_of(term))
    taken: list[Node] = []
    need = size
    while need > 1:
        factor = resolve(factors.pop())
        if isinstance(factor, Prod):
            factors.extend(factor.factors)
        elif need % factor.size == 0:
            taken.insert(0, factor)
            need //= factor.size
        elif factor.size % need == 0:
            slow, fast = _split_factor(factor, need)
            factors.append(slow)
            taken.insert(0, fast)
            need = 1
        else:
            factors.append(_weld(factors.pop(), factor))
    return prod(*factors), prod(*taken)


def _split_factor(factor: Node, size: int) -> tuple[Node, Node]:
    if isinstance(factor, Fixed):
        return Fixed(factor.size // size, factor.reason), Fixed(size, factor.reason)
    if isinstance(factor, Axis):
        slow, fast = axis(factor.size // size), axis(size)
        factor.bound = prod(slow, fast)
        return slow, fast
    return peel(factor, size)


def _weld(left: Node, right: Node) -> Node:
    """Two factors whose border a reshape ignores become one fixed factor."""
    reason = "a reshape cuts across two merged dimensions"
    freeze(left, reason)
    freeze(right, reason)
    return Fixed(left.size * right.size, reason)


def _unify_once(left: Node, right: Node, reason: str) -> list[tuple[Node, Node]]:
    """One step of unification of two different resolved nodes; returns the pairs still to unify."""
    for node, other in ((left, right), (right, left)):
        if isinstance(node, Fixed):
            freeze(other, node.reason or reason or "meets a fixed dimension")
            return []
    for node, other in ((left, right), (right, left)):
        if isinstance(node, Axis):
            node.bound = other
            return []
    if isinstance(left, Sum) or isinstance(right, Sum):
        at = min(terms_of(left)[0].size, terms_of(right)[0].size)
        heads_and_tails = zip(cut(left, at), cut(right, at))
        return list(heads_and_tails)
    return _unify_products(left, right)


def _unify_products(left: Node, right: Node) -> list[tuple[Node, Node]]:
    small, big = sorted((left, right), key=lambda node: factors_of(node)[-1].size)
    *slow, last = factors_of(small)
    if factors_of(big)[-1].size % last.size == 0:
        big_slow, big_fast = peel(big, last.size)
        return [(prod(*slow), big_slow), (last, big_fast)]
    size = _common_suffix(factors_of(left), factors_of(right))
    reason = "two reshapes have no common radix"
    ends = [_freeze_suffix(node, size, reason) for node in (left, right)]
    return [(ends[0], ends[1])]


def _common_suffix(left: Sequence[Node], right: Sequence[Node]) -> int:
    products = [
        set(itertools.accumulate((f.size for f in reversed(side)), lambda a, b: a * b))
        for side in (left, right)
    ]
    return min(products[0] & products[1])


def _freeze_suffix(node: Node, size: int, reason: str) -> Node:
    """Freeze the last factors that multiply to ``size``; return what stands before them."""
    factors = list(factors_of(node))
    while size > 1:
        factor = factors.pop()
        freeze(factor, reason)
        size //= factor.size
    return prod(*factors)


def _units_of_product(node, of):  # type: ignore[no-untyped-def]
    """An element of a product belongs to the unit that any of its coordinates belongs to."""
    positions: list[int] = []
    found: list[int] = []
    for place, factor in enumerate(node.factors):
        indices, inner = _units(factor, of)
        if not indices:
            continue
        slow = math.prod(f.size for f in node.factors[:place])
        fast = math.prod(f.size for f in node.factors[place + 1 :])
        stride = factor.size * fast
        if isinstance(indices, range):  # all of them
            positions += range(slow * stride)
        else:
            positions += [
                s * stride + index * fast + f for s in range(slow) for index in indices for f in range(fast)
            ]
        found += [unit for unit in inner for _ in range(fast)] * slow
    return positions, found
