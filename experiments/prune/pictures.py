"""Draw the pictures of the DepGraph page: the groups of a residual block, and accuracy against speed-up.

The groups are those a trace finds; the curves are read from ``results/depgraph.json``. Takes a second.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from experiments import record
from experiments.prune.depgraph import ARMS, Block
from torchard.prune.depgraph import DimGraph, trace

FOLDER = record.ROOT / "docs" / "methods"
INK, PALE, PAPER = "#24352c", "#7b8a81", "#fbfdfb"
COLOURS = ("#2e7d4f", "#e08a1e", "#3b6fb6", "#a8448c")
Place = tuple[float, float]


def main() -> None:
    """Write ``depgraph-group.svg``, and ``depgraph-curve.svg`` if its curves were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=record.ROOT / "results" / "depgraph.json")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    (options.folder / "depgraph-group.svg").write_text(group_picture(), encoding="utf-8")
    runs = json.loads(options.results.read_text(encoding="utf-8"))["details"]["runs"]
    if any("curve" in run for run in runs):
        (options.folder / "depgraph-curve.svg").write_text(curve_picture(runs), encoding="utf-8")


# ---- the groups of a block

LAYERS: dict[str, Place] = {
    "0": (30, 80),
    "2.first": (180, 80),
    "2.norms.0": (295, 80),
    "2.second": (420, 80),
    "2.norms.1": (535, 80),
    "2.shortcut": (295, 180),
    "6": (730, 80),
}
LABELS = {
    "0": "stem",
    "2.first": "conv 1",
    "2.norms.0": "norm 1",
    "2.second": "conv 2",
    "2.norms.1": "norm 2",
    "2.shortcut": "shortcut",
    "6": "linear",
}


def group_picture() -> str:
    """One residual block with every layer's input and output in the colour of its group."""
    graph = trace(_network(), torch.zeros(1, 3, 8, 8))
    groups = graph.groups()
    colours = {group.id: COLOURS[place] for place, group in enumerate(groups)}
    sides = _sides(graph, colours)
    parts = [_line([(5, 105), (30, 105)]), *_arrows(), _plus((675, 105))]
    parts += [_layer(LABELS[name], place, sides[name]) for name, place in LAYERS.items()]
    for row, group in enumerate(groups):
        weights = ", ".join(
            LABELS[name] for name in LAYERS if any(m.name.startswith(f"{name}.") for m in group.members)
        )
        parts.append(_key((30, 262 + 24 * row), colours[group.id], f"{group.size} channels: {weights}"))
    parts.append(_key((30, 262 + 24 * len(groups)), PALE, "image and classes: nothing goes"))
    title = _text((30, 38), "What must go together in a residual block", size=17, weight="600")
    return _svg(840, 290 + 24 * len(groups), [title, *parts])


def _network() -> torch.nn.Sequential:
    pooled = [torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    stem = torch.nn.Conv2d(3, 8, 3, padding=1)
    return torch.nn.Sequential(stem, torch.nn.ReLU(), Block(8, 16, 2), *pooled, torch.nn.Linear(16, 4))


def _sides(graph: DimGraph, colours: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colours of each layer's input and output; grey where nothing can go."""
    found = dict.fromkeys(LAYERS, (PALE, PALE))
    for group in graph.groups():
        for member in group.members:
            name = member.name.rpartition(".")[0]
            before, after = found[name]
            if member.role == "norm":
                before = after = colours[group.id]
            elif member.role == "in":
                before = colours[group.id]
            elif member.role == "out":
                after = colours[group.id]
            found[name] = (before, after)
    return found


def _arrows() -> list[str]:
    gaps = ((120, 180), (270, 295), (385, 420), (510, 535), (625, 663), (687, 730), (820, 838))
    row = [_line([(start, 105), (end, 105)]) for start, end in gaps]
    branch = _line([(150, 105), (150, 205), (295, 205)]) + _line([(385, 205), (675, 205), (675, 118)])
    return [*row, branch]


def _layer(label: str, place: Place, sides: tuple[str, str]) -> str:
    x, y = place
    return (
        f'<rect x="{x}" y="{y}" width="90" height="50" rx="7" fill="#fff" stroke="{PALE}"/>'
        f'<path d="M{x + 9} {y}h-2a7 7 0 0 0-7 7v36a7 7 0 0 0 7 7h2z" fill="{sides[0]}"/>'
        f'<path d="M{x + 81} {y}h2a7 7 0 0 1 7 7v36a7 7 0 0 1-7 7h-2z" fill="{sides[1]}"/>'
        + _text((x + 45, y + 29), label, size=13, anchor="middle")
    )


def _plus(place: Place) -> str:
    x, y = place
    cross = f"M{x - 5} {y}h10M{x} {y - 5}v10"
    return f'<circle cx="{x}" cy="{y}" r="12" fill="#fff" stroke="{INK}"/><path d="{cross}" stroke="{INK}"/>'


def _key(place: Place, colour: str, text: str) -> str:
    x, y = place
    return f'<rect x="{x}" y="{y - 11}" width="14" height="14" rx="3" fill="{colour}"/>' + _text(
        (x + 24, y), text, size=13
    )


# ---- accuracy against speed-up


def curve_picture(runs: Sequence[Mapping[str, Any]]) -> str:
    """Mean accuracy over seeds against the speed-up in operations: before and after training again."""
    left = _chart(runs, "before", (70, 75), "pruned")
    right = _chart(runs, "after", (470, 75), "and trained again for 3 epochs")
    keys = [_key((70 + 370 * (i % 2), 372 + 24 * (i // 2)), COLOURS[i], arm) for i, arm in enumerate(ARMS)]
    title = _text((70, 36), "Accuracy against speed-up, mean of seeds", size=17, weight="600")
    return _svg(840, 415, [title, left, right, *keys])


def _chart(runs: Sequence[Mapping[str, Any]], key: str, corner: Place, title: str) -> str:
    x, y = corner
    dense = statistics.mean(run[key] for run in runs if run["arm"] == "dense")
    curves = {arm: [(1.0, dense), *_points(runs, arm, key)] for arm in ARMS}
    values = [value for curve in curves.values() for _, value in curve]
    low = 0.0 if min(values) < 0.8 else 0.05 * int(20 * min(values))
    last = max(times for curve in curves.values() for times, _ in curve)

    def at(times: float, value: float) -> Place:
        return x + 330 * (times - 1) / (last - 1), y + 230 * (1 - value) / (1 - low)

    parts = [_text((x, y - 14), title, size=13)]
    for step in range(6):
        value = low + (1 - low) * step / 5
        height = at(1, value)[1]
        parts.append(f'<path d="M{x} {height:.1f}h330" stroke="#e3eae5"/>')
        parts.append(_text((x - 8, height + 4), f"{100 * value:.0f} %", size=11, anchor="end", colour=PALE))
    for times in range(1, int(last + 0.5) + 1):
        parts.append(_text((at(times, low)[0], y + 250), f"{times}×", size=11, anchor="middle", colour=PALE))
    parts += [
        _curve([at(*p) for p in curve], colour)
        for curve, colour in zip(curves.values(), COLOURS, strict=True)
    ]
    return "".join(parts)


def _points(runs: Sequence[Mapping[str, Any]], arm: str, key: str) -> list[Place]:
    """Speed-up and accuracy of each point, as means over seeds."""
    curves = [run["curve"] for run in runs if run["arm"] == arm]
    return [
        (
            statistics.mean(1 / point["macs"] for point in points),
            statistics.mean(point[key] for point in points),
        )
        for points in zip(*curves, strict=True)
    ]


def _curve(places: Sequence[Place], colour: str) -> str:
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.2"/>{dots}'


# ---- strokes


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif">'
        f'<defs><marker id="head" viewBox="0 0 9 9" refX="8" refY="4.5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L9 4.5L0 9z" fill="{INK}"/></marker></defs>'
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>' + "".join(parts) + "</svg>\n"
    )


def _line(places: Sequence[Place]) -> str:
    points = " ".join(f"{x},{y}" for x, y in places)
    style = f'fill="none" stroke="{INK}" stroke-width="1.3" marker-end="url(#head)"'
    return f'<polyline points="{points}" {style}/>'


def _text(
    place: Place, text: str, *, size: float, anchor: str = "start", weight: str = "400", colour: str = INK
) -> str:
    x, y = place
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
