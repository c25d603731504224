"""Versions with known holes are refused, packages we never want do not creep in."""

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDS = [Requirement(line) for group in [PROJECT["dependencies"], *EXTRAS.values()] for line in group]


# The last versions with published holes in loading foreign files, and the caps that Flower sets.
@pytest.mark.parametrize(
    "refused",
    ["torch==2.9.1", "onnx==1.20.9", "safetensors==0.7.9", "ray==2.53.9", "typer==0.21.0", "rich==15.0.0"],
)
def test_no_requirement_admits(refused):
    name, version = refused.split("==")
    assert not [need for need in NEEDS if need.name == name and need.specifier.contains(version)]


@pytest.mark.parametrize("needed", ["torch==2.14.1", "onnx==1.21", "safetensors==0.8.0", "typer==0.20.1"])
def test_the_core_admits(needed):
    name, version = needed.split("==")
    assert [need for need in NEEDS if need.name == name and need.specifier.contains(version)]


def test_lightning_is_nowhere_below_us():
    """Its releases have carried foreign code; torchmetrics' lightning-utilities is another package."""
    assert not {"lightning", "pytorch-lightning", "lightning-fabric"} & everything_below(NEEDS)


def everything_below(needs: list[Requirement]) -> set[str]:
    """Return the names of all installed distributions that ``needs`` lead to, without optional extras."""
    seen: set[str] = set()
    queue = [need.name for need in needs]
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            below = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        queue += [need.name for need in below if need.marker is None or need.marker.evaluate({"extra": ""})]
    return seen


def test_the_walk_sees_what_is_deep_below():
    assert {"torchmetrics", "lightning-utilities", "mpmath"} <= everything_below(NEEDS)
