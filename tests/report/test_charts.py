import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchard.report.charts import Axis, Label, Score, Series, dot_chart, line_chart, round_step, smooth, thin
from torchard.report.curves import _apart

NASTY = "</svg><script>alert(1)</script>\" & '"
finite = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(st.floats(1e-12, 1e12))
def test_round_steps_are_one_two_or_five(raw):
    step = round_step(raw)
    assert raw * (1 - 1e-8) <= step <= 2.5 * raw * (1 + 1e-8)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5)


@given(st.lists(finite, min_size=1, max_size=30))
def test_an_axis_holds_all_its_values(values):
    axis = Axis.over(values, 50, 400, ticks=4)
    assert all(50 - 1e-3 <= axis.at(value) <= 400 + 1e-3 for value in values)
    assert 2 <= len(axis.ticks) <= 9


def test_a_cut_axis_ends_where_the_values_end():
    axis = Axis.over([0, 479], 0, 100, ticks=5).cut(0, 479)
    assert (axis.at(0), axis.at(479)) == (0, 100)
    assert axis.ticks == (0, 100, 200, 300, 400)


def test_ticks_show_as_many_decimals_as_they_need():
    axis = Axis.over([0.37, 0.41], 0, 1, ticks=4)
    assert [axis.plain(tick) for tick in axis.ticks] == ["0.37", "0.38", "0.39", "0.40", "0.41"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_smoothing_stays_within_the_values_and_keeps_a_constant(ys):
    smoothed = smooth(list(enumerate(ys)))
    assert all(min(ys) - 1e-3 <= y <= max(ys) + 1e-3 for _, y in smoothed)
    assert smooth([(0.0, 2.0), (1.0, 2.0)]) == [(0.0, 2.0), (1.0, 2.0)]


def test_thinning_keeps_the_ends():
    points = [(float(k), 0.0) for k in range(10_000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])


def test_charts_are_well_formed_and_text_stays_text():
    line = line_chart(
        [Series(NASTY, [(0, 1), (1, 2)]), Series("b", [(0, 2)], "quiet")],
        title=NASTY,
        x_name=NASTY,
        labels=[Label(NASTY, (0, 1))],
    )
    dots = dot_chart([Score(NASTY, 0.4, 0.1, chosen=True), Score("b", 0.2)], title=NASTY, x_name=NASTY)
    for chart in (line, dots):
        root = ElementTree.fromstring(chart)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert any(element.text == NASTY for element in root.iter())


def test_error_bars_span_twice_the_error():
    chart = ElementTree.fromstring(dot_chart([Score("a", 0.0, 1.0), Score("b", 5.0)], title="t", x_name="x"))
    dots = [float(element.get("cx", 0)) for element in chart.iter() if element.tag.endswith("circle")]
    bar = next(element for element in chart.iter() if "whisker" in element.get("class", ""))
    per_unit = (dots[1] - dots[0]) / 5
    assert float(bar.get("x2", 0)) - float(bar.get("x1", 0)) == pytest.approx(2 * per_unit, abs=0.25)


def test_nothing_to_show_is_nothing():
    assert line_chart([], title="t", x_name="x") == ""
    assert dot_chart([], title="t", x_name="x") == ""


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=12))
def test_any_finite_points_can_be_drawn(points):
    ElementTree.fromstring(line_chart([Series("a", points, dots=True)], title="t", x_name="x"))


def test_labels_that_would_cover_each_other_become_one():
    tuned, cut, recovered = (
        Label("tuned", (98.0, 0.858)),
        Label("cut", (49.0, 0.851)),
        Label("recovered", (49.0, 0.8512), chosen=True),
    )
    assert _apart([tuned, cut, recovered]) == [tuned, Label("cut, recovered", (49.0, 0.8512), chosen=True)]
    far = Label("cut", (49.0, 0.70))
    assert _apart([tuned, far, recovered]) == [tuned, far, recovered]
