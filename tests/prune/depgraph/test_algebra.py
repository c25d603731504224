"""The algebra against brute force: random programs, pruned at random and run again."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchard.prune.depgraph.algebra import (
    Axis,
    Fixed,
    Node,
    axis,
    concat,
    cut,
    freeze,
    kept,
    leaves,
    peel,
    prod,
    reasons,
    resolve,
    terms_of,
    unify,
    units,
    width,
)

SIZES = (2, 3, 4, 6, 8, 12)


def test_a_product_of_sums_is_distributed_only_in_leading_position():
    a, b, c = axis(2), axis(3), axis(4)
    leading = prod(concat(a, b), c)
    assert [term.size for term in terms_of(leading)] == [8, 12]
    trailing = prod(c, concat(a, b))
    assert len(terms_of(trailing)) == 1
    assert trailing.size == 20


def test_fixed_neighbours_merge_and_ones_vanish():
    assert prod(Fixed(2), Fixed(1), Fixed(3)) == Fixed(6)
    assert concat(Fixed(2), Fixed(0), Fixed(3)) == Fixed(5)
    a = axis(4)
    assert concat(a, a) == prod(Fixed(2), a)


def test_kept_indices_follow_mixed_radix():
    heads, dims = axis(3), axis(4)
    merged = prod(heads, dims)
    assert kept(merged, {heads: [0, 2], dims: [1]}) == [1, 9]
    assert kept(concat(Fixed(2), merged), {dims: [0]}) == [0, 1, 2, 6, 10]
    assert width(merged, {heads: 2}) == 8


def test_rotary_halves_make_pairs():
    whole = axis(8)
    first, second = cut(whole, 4)
    unify(whole, concat(second, first))
    (leaf,) = set(leaves(whole))
    assert kept(whole, {leaf: [1, 3]}) == [1, 3, 5, 7]


def test_an_axis_met_twice_in_one_product_is_bound_once():
    a = axis(6)
    square = prod(a, a)
    slow, fast = peel(square, 3)
    assert slow.size == 12
    assert fast.size == 3
    (outer, inner) = list(leaves(a))
    assert kept(square, {inner: [0], outer: [0, 1]}) == [0, 3, 18, 21]


def test_no_common_radix_freezes_only_the_stretch():
    a, b, c, d, e = axis(5), axis(6), axis(4), axis(4), axis(6)
    left, right = prod(a, b, c), prod(axis(5), d, e)
    unify(left, right)
    assert list(leaves(left)) == list(leaves(right))
    assert len(list(leaves(left))) == 1
    assert "radix" in reasons(left)[0]


def test_freezing_keeps_the_reason_and_spreads_by_unification():
    a, b = axis(4), axis(4)
    freeze(a, "model output")
    unify(a, b)
    assert reasons(b) == ["model output"]
    assert not list(leaves(b))


def test_units_name_every_element_of_a_unit():
    heads, dims = axis(2), axis(3)
    assert units(prod(heads, dims), dims) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2])
    assert units(concat(Fixed(1), heads), heads) == ([1, 2], [0, 1])


def random_node(chance: random.Random, depth: int = 3) -> Node:
    """A dimension of a few elements."""
    kind = chance.choice(("axis", "fixed", "prod", "concat")) if depth else "axis"
    if kind == "axis":
        return axis(chance.randint(1, 4))
    if kind == "fixed":
        return Fixed(chance.randint(0, 3))
    parts = [random_node(chance, depth - 1) for _ in range(chance.randint(1, 3))]
    parts += chance.sample(parts, chance.randint(0, 1))  # an axis may occur twice
    return prod(*parts) if kind == "prod" else concat(*parts)


@given(seed=st.integers(0, 2**32))
def test_the_elements_of_a_unit_are_those_that_go_with_it(seed):
    node = random_node(random.Random(seed))
    for leaf in set(leaves(node)):
        positions, found = units(node, leaf)
        for unit in range(leaf.size):
            others = kept(node, {leaf: [other for other in range(leaf.size) if other != unit]})
            mine = {position for position, of in zip(positions, found, strict=True) if of == unit}
            assert mine == set(range(node.size)) - set(others)


@pytest.mark.parametrize("bad", [-1, 5])
def test_a_cut_outside_is_refused(bad):
    with pytest.raises(ValueError, match="outside"):
        cut(axis(4), bad)


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match="cannot be the same"):
        unify(axis(4), axis(5))
    with pytest.raises(ValueError, match="no row-major split"):
        peel(axis(10), 4)


class Program:
    """A random program on arrays whose dimensions the algebra follows; replayed on pruned inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.arrays: list[np.ndarray] = []
        self.dims: list[list] = []
        self.steps: list[tuple] = []

    def build(self, steps: int) -> None:
        for _ in range(self.random.randint(2, 4)):
            shape = [self.random.choice(SIZES) for _ in range(self.random.randint(1, 3))]
            self._push(("input", shape), [axis(n) for n in shape])
        for _ in range(steps):
            kind = self.random.choice(
                (self.transpose, self.cat, self.slice, self.tile, self.add, self.reshape)
            )
            kind()

    def transpose(self) -> None:
        i = self._pick()
        order = self.random.sample(range(len(self.dims[i])), len(self.dims[i]))
        self._push(("transpose", i, order), [self.dims[i][k] for k in order])

    def cat(self) -> None:
        for i, j in itertools.product(range(len(self.dims)), repeat=2):
            if len(self.dims[i]) == len(self.dims[j]) and self.random.random() < 0.4:
                places = [k for k in range(len(self.dims[i])) if self._same_but(i, j, k)]
                if places and self.dims[i][places[0]].size + self.dims[j][places[0]].size < 80:
                    return self._cat(i, j, places[0])
        return None

    def _cat(self, i: int, j: int, k: int) -> None:
        for place, (a, b) in enumerate(zip(self.dims[i], self.dims[j])):
            if place != k:
                unify(a, b)
        dims = list(self.dims[i])
        dims[k] = concat(self.dims[i][k], self.dims[j][k])
        self._push(("cat", i, j, k), dims)

    def slice(self) -> None:
        i = self._pick()
        k = self.random.randrange(len(self.dims[i]))
        if (size := self.dims[i][k].size) < 2:
            return
        at = self.random.randint(1, size - 1)
        left, _ = cut(self.dims[i][k], at)
        dims = list(self.dims[i])
        dims[k] = left
        self._push(("slice", i, k, left), dims)

    def tile(self) -> None:
        i = self._pick()
        k = self.random.randrange(len(self.dims[i]))
        if self.dims[i][k].size > 24:
            return
        n = self.random.randint(2, 3)
        dims = list(self.dims[i])
        dims[k] = prod(Fixed(n), dims[k])
        self._push(("tile", i, k, n), dims)

    def add(self) -> None:
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(len(self.dims)), 2)
            if [d.size for d in self.dims[i]] == [d.size for d in self.dims[j]]
        ]
        if not pairs:
            return
        i, j = self.random.choice(pairs)
        for a, b in zip(self.dims[i], self.dims[j]):
            unify(a, b)
        self._push(("add", i, j), list(self.dims[i]))

    def reshape(self) -> None:
        i = self._pick()
        total = int(np.prod([d.size for d in self.dims[i]]))
        shape: list[int] = []
        while total > 1 and len(shape) < 3:
            n = self.random.choice([d for d in range(2, total + 1) if total % d == 0])
            shape.append(n)
            total //= n
        shape.append(total)
        merged, dims = prod(*self.dims[i]), []
        for n in reversed(shape):
            merged, fast = peel(merged, n)
            dims.insert(0, fast)
        self._push(("reshape", i, dims), dims)

    def run(self, keep: dict) -> list[np.ndarray]:
        arrays: list[np.ndarray] = []
        for serial, (step, dims) in enumerate(zip(self.steps, self.dims)):
            arrays.append(self._execute(serial, step, dims, arrays, keep))
        return arrays

    def _execute(self, serial, step, dims, arrays, keep):
        match step:
            case ("input", shape):
                full = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) + 1000 * serial
                return full[np.ix_(*(kept(d, keep) for d in dims))]
            case ("transpose", i, order):
                return arrays[i].transpose(order)
            case ("cat", i, j, k):
                return np.concatenate([arrays[i], arrays[j]], axis=k)
            case ("slice", i, k, left):
                return arrays[i].take(range(len(kept(left, keep))), axis=k)
            case ("tile", i, k, n):
                return np.concatenate([arrays[i]] * n, axis=k)
            case ("add", i, j):
                return (arrays[i] * 31 + arrays[j]) % 1_000_003
            case ("reshape", i, wanted):
                return arrays[i].reshape([len(kept(d, keep)) for d in wanted])
        raise AssertionError(step)

    def _push(self, step: tuple, dims: list) -> None:
        self.steps.append(step)
        self.dims.append(dims)

    def _pick(self) -> int:
        return self.random.randrange(len(self.dims))

    def _same_but(self, i: int, j: int, k: int) -> bool:
        return all(a.size == b.size for p, (a, b) in enumerate(zip(self.dims[i], self.dims[j])) if p != k)


def check_program(seed: int, steps: int) -> tuple[int, int]:
    """Prune at random, run again, compare with the kept part of the original; count free dimensions."""
    program = Program(seed)
    program.build(steps)
    axes = {leaf for dims in program.dims for dim in dims for leaf in leaves(dim)}
    ordered = sorted(axes, key=lambda leaf: leaf.serial)
    keep = {
        a: sorted(program.random.sample(range(a.size), program.random.randint(1, a.size))) for a in ordered
    }
    whole, pruned = program.run({}), program.run(keep)
    for before, after, dims in zip(whole, pruned, program.dims):
        assert np.array_equal(before[np.ix_(*(kept(d, keep) for d in dims))], after), seed
        assert [width(d, {a: len(k) for a, k in keep.items()}) for d in dims] == list(after.shape)
    every = [resolve(dim) for dims in program.dims for dim in dims if dim.size > 1]
    return sum(bool(list(leaves(dim))) for dim in every), len(every)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 14))
def test_random_programs_keep_their_meaning_when_pruned(seed, steps):
    check_program(seed, steps)


def test_most_dimensions_of_random_programs_stay_free():
    free, total = (sum(column) for column in zip(*(check_program(seed, 8) for seed in range(100))))
    assert free / total > 0.6


def test_an_axis_is_never_bound_to_itself():
    for seed in range(100):
        program = Program(seed)
        program.build(10)
        for dims in program.dims:
            for dim in dims:
                assert all(isinstance(leaf, Axis) and leaf.bound is None for leaf in leaves(dim))
