from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from torchard.core.data.carve import carve, complete_parts

rows = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=60)


def split(rows: list[tuple[str, str]], fraction: float = 0.25, seed: int = 0) -> list[int]:
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    digests = [str(row) for row in range(len(rows))]
    return carve(labels, groups, digests, fraction=fraction, generator=np.random.default_rng(seed))


@given(rows, st.floats(0.05, 0.6), st.integers(0, 100))
def test_each_class_gives_its_rounded_share_at_least_one_and_not_all(rows, fraction, seed):
    chosen = Counter(rows[row][0] for row in split(rows, fraction, seed))
    for label, total in Counter(label for label, _ in rows).items():
        assert chosen[label] == min(max(round(total * fraction), 1), total - 1)


@given(rows, st.integers(0, 100))
def test_groups_keep_their_share_within_one_sample(rows, seed):
    chosen = Counter(rows[row] for row in split(rows, 0.25, seed))
    classes, cells = Counter(label for label, _ in rows), Counter(rows)
    for (label, group), total in cells.items():
        share = min(max(round(classes[label] * 0.25), 1), classes[label] - 1) / classes[label]
        assert abs(chosen[label, group] - total * share) < 1 + 1e-9


@given(rows, st.integers(0, 5))
def test_copies_of_an_image_stay_together(rows, seed):
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    digests = [str(row // 3) for row in range(len(rows))]
    chosen = set(carve(labels, groups, digests, fraction=0.3, generator=np.random.default_rng(seed)))
    for row in range(len(rows)):
        assert (row in chosen) == (row - row % 3 in chosen)


def test_seeds_choose_differently_and_reproducibly():
    many = [("a", "x")] * 100
    assert split(many, seed=1) == split(many, seed=1)
    assert split(many, seed=1) != split(many, seed=2)


def test_order_of_the_list_does_not_decide():
    chosen = split([("a", "x")] * 1000)
    assert 400 < sum(chosen) / len(chosen) < 600


def complete(parts: list[str]) -> list[str]:
    count = len(parts)
    labels = ["ab"[row % 2] for row in range(count)]
    return complete_parts(
        parts, labels=labels, groups=[""] * count, digests=[str(row) for row in range(count)], seed=0
    )


def test_missing_parts_are_carved_from_train_alone():
    assert Counter(complete(["train"] * 200)) == {"train": 128, "validation": 22, "test": 50}
    given = ["train"] * 100 + ["test"] * 40
    assert complete(given)[100:] == ["test"] * 40
    assert Counter(complete(given)[:100])["validation"] == 16  # 7.5 of 50, to even, in both classes


def test_given_parts_are_kept():
    given = ["train", "validation", "test"] * 10
    assert complete(given) == given
