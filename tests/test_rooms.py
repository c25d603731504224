"""Whoever knows one method finds everything about any other: code, test, experiment and page share a path."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchard.core.method import CatalogueEntry, catalogue


def missing_rooms(entry: CatalogueEntry, root: Path = ROOT) -> list[str]:
    """Return the places where ``entry`` should have something and has nothing."""
    code = Path(entry.path)
    test = f"tests/{code.with_name(f'test_{code.name}')}.py"
    page = f"docs/methods/{entry.slug}.md"
    found = {
        test: (root / test).exists() or any((root / "tests" / code).glob("test_*.py")),
        f"experiments/{code}.py": (root / "experiments" / f"{code}.py").exists()
        or any((root / "experiments" / code).glob("*.py")),
        page: (root / page).exists(),
    }
    return [name for name, there in found.items() if not there]


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.path)
def test_every_method_has_its_test_its_experiment_and_its_page(entry):
    assert missing_rooms(entry) == []


@pytest.mark.parametrize(
    "experiment", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda file: file.stem
)
def test_every_experiment_opens_by_saying_what_it_compares(experiment):
    assert experiment.name == "__init__.py" or experiment.read_text().startswith('"""')
