import pytest

from torchard.core.data.assemble import ordered


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "9"], ["9", "10"]),
        (["01", "1"], ["01", "1"]),
        (["b", "a", "10", "9"], ["10", "9", "a", "b"]),
        (["²", "1"], ["1", "²"]),
        ([], []),
    ],
)
def test_labels_are_ordered_as_numbers_only_if_all_are(labels, expected):
    assert ordered(labels) == expected
