import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchard.report import wording


def plain(shown: str) -> str:
    return shown.replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (999, "999"),
        (1000, "1.00 k"),
        (1.31e6, "1.31 M"),
        (999.9e6, "1.00 G"),
        (197e6, "197 M"),
        (2e12, "2.00 T"),
    ],
)
def test_amounts_have_three_figures_and_a_prefix(value, shown):
    assert plain(wording.amount(value)) == shown


def test_amounts_carry_their_unit():
    assert plain(wording.amount(5.3e6, "B")) == "5.30 MB"


@given(st.floats(1, 1e15))
def test_an_amount_read_back_is_within_half_a_percent(value):
    number, _, prefix = plain(wording.amount(value)).partition(" ")
    size = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert math.isclose(float(number.replace(",", "")) * size, value, rel_tol=5.1e-3)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (3.24, "3.2 s"),
        (59.7, "1 min"),
        (311, "5 min 11 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (600, "10 min"),
    ],
)
def test_durations_are_said_in_two_units(seconds, shown):
    assert plain(wording.duration(seconds)) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(100, 40, "−60 %"), (100, 104, "+4 %"), (100, 100, "±0 %"), (0, 3, "–"), (None, 3, "–")],
)
def test_changes_carry_a_sign(before, after, shown):
    assert plain(wording.change(before, after)) == shown


def test_points_are_differences_of_shares():
    assert wording.points(0.886, 0.881) == "−0.5 points"


@pytest.mark.parametrize(("value", "shown"), [(2.1e-5, "2.1 · 10⁻⁵"), (0.0, "0"), (3.0, "3.0 · 10⁰")])
def test_small_numbers_are_powers_of_ten(value, shown):
    assert plain(wording.small(value)) == shown


@pytest.mark.parametrize(
    "show",
    [wording.percent, wording.count, wording.amount, wording.milliseconds, wording.duration, wording.small],
)
def test_the_unknown_is_a_dash(show):
    assert show(None) == "–"


def test_only_shares_of_images_are_percentages():
    assert plain(wording.metric_value("balanced_accuracy", 0.86)) == "86.0 %"
    assert wording.metric_value("auroc", 0.9361) == "0.936"
