import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchard.core.data import load_task, resolution_note
from torchard.core.data.task import fingerprint


def test_the_summary_is_plain_json_and_counts_every_image():
    task = load_task("digits")
    summary = task.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert sum(sum(counts.values()) for counts in summary["counts"].values()) == 1797
    assert summary["image_size"] == [8, 8]
    assert summary["groups"] is None
    assert summary["fingerprint"] == task.fingerprint


@pytest.mark.parametrize(("size", "warned"), [((224, 224), True), ((17, 17), True), ((15, 224), False)])
def test_images_much_smaller_than_the_input_are_warned_about(size, warned):
    note = resolution_note(load_task("digits"), size)
    assert (note is not None) == warned
    if note is not None:
        assert "(8×8)" in note


rows = st.lists(
    st.tuples(st.sampled_from(["train", "test"]), st.text(max_size=3), st.integers(0, 2)), max_size=5
)


@given(rows, st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_rows(rows, random):
    listed = [list(row) for row in rows]
    shuffled = list(listed)
    random.shuffle(shuffled)
    assert fingerprint(("a", "b"), listed) == fingerprint(("a", "b"), shuffled)


@given(rows, rows)
def test_other_rows_have_another_fingerprint(left, right):
    same = sorted(left) == sorted(right)
    assert (
        fingerprint(("a",), [list(row) for row in left]) == fingerprint(("a",), [list(row) for row in right])
    ) == same


def test_class_names_count():
    assert fingerprint(("a", "b"), []) != fingerprint(("b", "a"), [])
