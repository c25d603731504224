import unicodedata

import pytest

from torchard.core.data.checks import check_class_names, check_copies, check_counts, check_exclusions
from torchard.core.errors import DataError


@pytest.mark.parametrize(
    ("one", "other"),
    [("Cat", "cat"), ("STRASSE", "straße"), ("café", unicodedata.normalize("NFD", "café")), ("Ⓐ", "ⓐ")],
)
def test_class_names_equal_but_for_case_or_form_are_refused(one, other):
    with pytest.raises(DataError, match="case or Unicode form only"):
        check_class_names(["dog", one, other])


def test_class_names_that_differ_otherwise_are_fine():
    check_class_names(["cat", "cats", "cat ", "Кот", "猫"])


def test_exclusions_are_told_by_reason_with_ten_names():
    excluded = [(f"{index}.png", "truncated" if index else "empty file") for index in range(12)]
    (note,) = check_exclusions(excluded, {"a": 100}, {"a": 88}, strict=False)
    assert note.startswith("12 of 100 images cannot be used: 11 truncated, 1 empty file ('0.png', '1.png'")
    assert "'9.png' and 2 more" in note
    assert "'10.png'" not in note


def test_no_exclusions_no_note():
    assert check_exclusions([], {"a": 1}, {"a": 1}, strict=True) == []


@pytest.mark.parametrize(
    ("bad", "strict", "after", "message"),
    [
        (1, True, {"a": 60, "b": 39}, "leave out --strict"),
        (21, False, {"a": 60, "b": 19}, "More than 20%"),
        (5, False, {"a": 95}, "Nothing is left of class 'b'"),
    ],
)
def test_too_many_exclusions_stop(bad, strict, after, message):
    excluded = [(f"{index}", "truncated") for index in range(bad)]
    with pytest.raises(DataError, match=message):
        check_exclusions(excluded, {"a": 60, "b": 40}, after, strict=strict)


def test_a_fifth_is_still_allowed():
    excluded = [(f"{index}", "truncated") for index in range(20)]
    assert check_exclusions(excluded, {"a": 100}, {"a": 80}, strict=False)


@pytest.mark.parametrize(
    ("parts", "labels", "message"),
    [
        ("", "", "no images"),
        ("ttt", "aaa", "only one class, 'a' 3"),
        ("tttt", "aaab", "'b' 1; at least 3 per class are needed, one each for train, validation, test"),
        ("tttvv", "aabab", r"'b' 1; at least 2 per class .*train, test"),
        ("ttv", "aba", "class 'b' has images elsewhere but none in validation"),
        ("ttvve", "ababc", "class 'c' has images elsewhere but none in train"),
        ("vvee", "abab", "no image is in train, only in validation, test"),
    ],
)
def test_what_cannot_be_learnt_is_refused_with_counts(parts, labels, message):
    names = {"t": "train", "v": "validation", "e": "test"}
    with pytest.raises(DataError, match=message):
        check_counts([names[part] for part in parts], list(labels))


def test_one_image_per_class_and_given_split_is_enough():
    check_counts(["train", "train", "validation", "validation", "test", "test"], list("ababab"))


def copies(digests: str, labels: str, parts: str, *, strict: bool = False) -> list[str]:
    return check_copies(list(digests), list("nmop")[: len(digests)], list(labels), list(parts), strict=strict)


def test_copies_in_two_classes_or_splits_are_told():
    assert copies("xyz", "aab", "ttt") == []
    assert copies("xxz", "aab", "ttt") == []
    assert copies("xxz", "abb", "ttt") == ["Images that occur in several classes: 1, 'n' = 'm'."]
    assert copies("xxz", "aab", "tet") == ["Images that occur in several splits: 1, 'n' = 'm'."]
    assert len(copies("xxyy", "abaa", "tttv")) == 2


def test_strict_refuses_copies():
    with pytest.raises(DataError, match="Remove the copies"):
        copies("xx", "ab", "tt", strict=True)
