"""Every method is held to the contract of each of its shapes; a shape without one cannot slip in."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.contracts.cases import CASES, MeasureCase, ToolCase, case, case_module, entries
from torchard.core.method import CatalogueEntry, Method, catalogue

ENTRY = CatalogueEntry("select", "made_up", "Made up.", Method(("measure", "tool"), source="S", claim="C"))
MEASURE = MeasureCase(lambda features, targets: 0.0, torch.zeros(2, 2), torch.zeros(2))


def test_every_shape_in_the_catalogue_has_a_contract():
    shapes = {shape for entry in catalogue() for shape in entry.method.shapes}
    assert sorted(shapes - set(CASES)) == [], "write tests/contracts/test_<shape>.py, see cases.py"


@pytest.mark.parametrize("shape", CASES)
def test_every_contract_is_a_module_here(shape):
    assert Path(__file__).with_name(f"test_{shape}.py").exists()


@pytest.mark.parametrize("shape", CASES)
def test_no_method_is_left_out(shape):
    assert entries(shape) == [entry for entry in catalogue() if shape in entry.method.shapes]


def offer(monkeypatch, *cases: object) -> None:
    module = ModuleType("tests.select.test_made_up")
    if cases:
        module.contract_case = lambda: cases if len(cases) > 1 else cases[0]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_case_is_found_by_its_shape(monkeypatch):
    tool = ToolCase(run=str)
    offer(monkeypatch, MEASURE)
    assert case(ENTRY, "measure") is MEASURE
    offer(monkeypatch, tool, MEASURE)
    assert case(ENTRY, "measure") is MEASURE
    assert case(ENTRY, "tool") is tool


@pytest.mark.parametrize(
    "cases", [(), (ToolCase(run=str),), (MEASURE, MEASURE)], ids=["none", "other", "two"]
)
def test_a_missing_or_doubled_case_fails_and_says_what_to_write(monkeypatch, cases):
    offer(monkeypatch, *cases)
    with pytest.raises(
        LookupError, match=r"select/made_up says it is a measure, but tests\.select\.test_made_up"
    ):
        case(ENTRY, "measure")


def test_a_missing_test_module_is_a_missing_case():
    with pytest.raises(LookupError, match=r"tests\.select\.test_made_up offers 0 cases"):
        case(ENTRY, "measure")


def test_where_a_case_is_looked_for(tmp_path):
    card = ENTRY.method
    (tmp_path / "prune" / "depgraph").mkdir(parents=True)
    (tmp_path / "compiler").mkdir()
    assert case_module(ENTRY, tmp_path) == "tests.select.test_made_up"
    package, room = CatalogueEntry("prune", "depgraph", "", card), CatalogueEntry("", "compiler", "", card)
    assert case_module(package, tmp_path) == "tests.prune.depgraph.contract"
    assert case_module(room, tmp_path) == "tests.compiler.contract"
