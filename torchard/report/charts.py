"""Small charts as inline SVG: one accent colour, direct labels, and text that a screen reader can read.

Each function returns safe markup for a page that carries ``report.css``, whose classes colour it in light
and dark. All text given is escaped here, so names from strangers may be passed as they are. Cost: linear
in the points; a line of more than 240 points is thinned before it is drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from markupsafe import Markup, escape

Number = int | float
Point = tuple[Number, Number]
Format = Callable[[Number], str]
_WIDTH = 460
_MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """One line: `style` is the accent, a quiet grey, or the faint ground beneath a smoothed line."""

    name: str
    points: Sequence[Point]
    style: Literal["accent", "quiet", "faint"] = "accent"
    dots: bool = False


@dataclass(frozen=True)
class Score:
    """One row of a dot chart: a value with its standard error, marked if it was chosen."""

    name: str
    value: Number
    error: Number = 0.0
    chosen: bool = False


@dataclass(frozen=True)
class Label:
    """A word beside a point of a line chart."""

    text: str
    at: Point
    chosen: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    x_format: Format | None = None,
    y_format: Format | None = None,
    labels: Sequence[Label] = (),
    height: int = 230,
) -> Markup:
    """Return lines over a shared pair of axes, with a legend where there is more than one to tell apart.

    Without a format an axis shows as many decimals as its ticks need.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return Markup("")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    room = 0.14 * (max(ys) - min(ys)) if labels else 0.0  # the labels stand below their points
    x_axis = Axis.over(xs, 52, _WIDTH - 18, ticks=5).cut(min(xs), max(xs))
    y_axis = Axis.over([*ys, min(ys) - room], height - 40, 30, ticks=4)
    parts = [
        _grid(x_axis, y_axis, x_format or x_axis.plain, y_format or y_axis.plain),
        _axis_name(x_name, height),
    ]
    parts += [_line(line, x_axis, y_axis) for line in series]
    parts += [_point_label(label, x_axis, y_axis) for label in labels]
    parts.append(_legend([line for line in series if line.style != "faint"]))
    return _svg(parts, height, title)


def dot_chart(scores: Sequence[Score], *, title: str, x_name: str) -> Markup:
    """Return a dot with its error bar for each score, in the order given."""
    if not scores:
        return Markup("")
    height = 26 * len(scores) + 54
    ends = [score.value + sign * score.error for score in scores for sign in (-1, 1)]
    axis = Axis.over(ends, 178, _WIDTH - 24, ticks=4)
    rows = [_score_row(score, axis, 22 + 26 * index) for index, score in enumerate(scores)]
    foot = height - 40
    ticks = [
        _tag('<line class="grid" x1="{x}" x2="{x}" y1="6" y2="{y}"/>', x=axis.at(tick), y=foot)
        + _text(axis.plain(tick), axis.at(tick), foot + 16, "middle")
        for tick in axis.ticks
    ]
    return _svg([*ticks, *rows, _axis_name(x_name, height)], height, title)


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels, with round ticks."""

    low: Number
    high: Number
    start: Number
    end: Number
    ticks: tuple[Number, ...]

    @classmethod
    def over(cls, values: Sequence[Number], start: Number, end: Number, *, ticks: int) -> "Axis":
        """The axis on which `values` fill the pixels `start` to `end`, with about `ticks` round marks."""
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - max(0.5 * abs(low), 0.5), high + max(0.5 * abs(high), 0.5)
        step = round_step((high - low) / ticks)
        low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
        marks = tuple(low + step * k for k in range(round((high - low) / step) + 1))
        return cls(low, high, start, end, marks)

    def cut(self, low: Number, high: Number) -> "Axis":
        """The same pixels for `low` to `high` alone and the ticks between; unchanged if those are equal."""
        if high - low < 1e-9 * max(1.0, abs(high)):
            return self
        slack = 1e-6 * (high - low)
        inside = tuple(tick for tick in self.ticks if low - slack <= tick <= high + slack)
        return Axis(low, high, self.start, self.end, inside)

    def plain(self, tick: Number) -> str:
        """`tick` with thousands set off, and as many decimals as tell the ticks apart."""
        step = min((b - a for a, b in pairwise(self.ticks)), default=1.0)
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")

    def at(self, value: Number) -> float:
        """The pixel of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def round_step(raw: Number) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9))


def smooth(points: Sequence[Point], *, share: Number = 0.04) -> list[Point]:
    """Return the running mean of `points` over about `share` of them to either side, so without lag."""
    reach = max(1, round(share * len(points)))
    sums = [0.0, *accumulate(y for _, y in points)]
    windows = [(max(0, index - reach), min(len(points), index + reach + 1)) for index in range(len(points))]
    return [
        (x, (sums[end] - sums[start]) / (end - start))
        for (x, _), (start, end) in zip(points, windows, strict=True)
    ]


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most `most` of the points, evenly spaced, first and last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


def _svg(parts: Sequence[Markup], height: int, title: str) -> Markup:
    head = _tag(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg"><title>{title}</title>',
        w=_WIDTH, h=height, title=title,
    )  # fmt: skip
    return head + Markup("").join(parts) + Markup("</svg>")


def _grid(x_axis: Axis, y_axis: Axis, x_format: Format, y_format: Format) -> Markup:
    rows = [
        _tag(
            '<line class="grid" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>',
            a=x_axis.start,
            b=x_axis.end,
            y=y_axis.at(tick),
        )
        + _text(y_format(tick), x_axis.start - 8, y_axis.at(tick) + 4, "end")
        for tick in y_axis.ticks
    ]
    columns = [_text(x_format(tick), x_axis.at(tick), y_axis.start + 17, "middle") for tick in x_axis.ticks]
    return Markup("").join([*rows, *columns])


def _line(line: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in thin(line.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = _tag('<polyline class="line {style}" points="{path}"/>', style=line.style, path=path)
    if not line.dots and len(places) > 1:
        return drawn
    return drawn + Markup("").join(_dot(x, y, line.style) for x, y in places)


def _dot(x: Number, y: Number, style: str) -> Markup:
    return _tag('<circle class="dot {style}" cx="{x}" cy="{y}" r="3"/>', style=style, x=x, y=y)


def _point_label(label: Label, x_axis: Axis, y_axis: Axis) -> Markup:
    x, y = x_axis.at(label.at[0]), y_axis.at(label.at[1])
    ring = _tag('<circle class="ring {kind}" cx="{x}" cy="{y}" r="5"/>', kind=_kind(label.chosen), x=x, y=y)
    # A curve that rises to the right leaves the corners above its right end and below its left end empty.
    right = x > (x_axis.start + x_axis.end) / 2
    if right:
        return ring + _text(label.text, x + 5, y - 10, "end", "strong")
    return ring + _text(label.text, x + 10, y + 16, "start", "strong")


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return Markup("")
    parts, x = [], 52.0
    for line in series:
        parts.append(
            _tag('<line class="line {s}" x1="{a}" x2="{b}" y1="12" y2="12"/>', s=line.style, a=x, b=x + 18)
        )
        parts.append(_text(line.name, x + 24, 16, "start"))
        x += 24 + 6.6 * len(line.name) + 22
    return Markup("").join(parts)


def _score_row(score: Score, axis: Axis, y: Number) -> Markup:
    kind = _kind(score.chosen)
    low, high = axis.at(score.value - score.error), axis.at(score.value + score.error)
    parts = [
        _text(_shorten(score.name, 25), 166, y + 4, "end", kind),
        _tag(
            '<line class="whisker {kind}" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>',
            kind=kind,
            a=low,
            b=high,
            y=y,
        ),
        _tag(
            '<circle class="dot {kind}" cx="{x}" cy="{y}" r="4.5"/>', kind=kind, x=axis.at(score.value), y=y
        ),
    ]
    return Markup("").join(parts)


def _kind(chosen: bool) -> str:
    return "accent" if chosen else "quiet"


def _axis_name(name: str, height: Number) -> Markup:
    return _text(name, _WIDTH - 18, height - 4, "end", "name")


def _text(content: str, x: Number, y: Number, anchor: str, kind: str = "") -> Markup:
    return _tag(
        '<text class="{kind}" x="{x}" y="{y}" text-anchor="{a}">{t}</text>',
        kind=kind,
        x=x,
        y=y,
        a=anchor,
        t=content,
    )


def _tag(template: str, **values: str | Number) -> Markup:
    """`template`, written in this file, filled with `values`: numbers to a tenth of a pixel, text escaped."""
    shown = {
        key: f"{value:.1f}" if isinstance(value, float) else escape(str(value))
        for key, value in values.items()
    }
    return Markup(template.format(**shown))


def _shorten(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
