"""The catalogue is read from the cards, without importing anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from torchard.core.method import CatalogueEntry, Method, catalogue

CARD = (
    '"""Do {0}.\n\nMore."""\nimport not_there\nMETHOD = Method(shapes=("measure",), source="S", claim="C")\n'
)
TEXTS = {
    "select/logme.py": CARD.format("logme"),
    "prune/depgraph/__init__.py": CARD.format("depgraph"),
    "prune/depgraph/algebra.py": CARD.format("hide: a part of a method has no card of its own"),
    "compiler/__init__.py": CARD.format("look"),
    "core/budget.py": '"""No method."""\nMETHODS = 3\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_module_a_package_and_a_whole_room_can_be_a_method(tree):
    assert [entry.path for entry in catalogue(tree)] == ["compiler", "prune/depgraph", "select/logme"]


def test_an_entry_says_what_its_card_its_path_and_its_docstring_say(tree):
    card = Method(shapes=("measure",), source="S", claim="C")
    entry = CatalogueEntry("select", "logme", "Do logme.", card)
    assert catalogue(tree)[2] == entry
    assert [found.module for found in catalogue(tree)] == [
        "torchard.compiler",
        "torchard.prune.depgraph",
        "torchard.select.logme",
    ]


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("METHOD = Method(shapes=SHAPES, source='', claim='')", "not a literal card"),
        ("METHOD = Method(shapes=('measure',), source='')", "not a literal card"),
        ("METHOD = Method(shapes=('measure',), source='', claim='', more=1)", "not a literal card"),
    ],
)
def test_a_bad_card_is_refused_by_file_name(tree, card, said):
    (tree / "select" / "bad.py").write_text(card)
    with pytest.raises(ValueError, match=r"bad\.py") as caught:
        catalogue(tree)
    assert said in str(caught.value)


def test_an_unknown_shape_is_refused(tree):
    (tree / "select" / "bad.py").write_text("METHOD = Method(shapes=('shapeless',), source='', claim='')")
    # In a process of its own: here, the type checker that runs in the tests would be first.
    code = (
        f"from pathlib import Path; from torchard.core import method; method.catalogue(Path({str(tree)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "bad.py names unknown shapes ['shapeless']; known: measure, transform" in done.stderr


def test_every_entry_of_this_installation_can_be_imported_and_agrees_with_its_card():
    for entry in catalogue():
        module = __import__(entry.module, fromlist=["METHOD"])
        assert entry.method == module.METHOD
        assert entry.summary.endswith("."), f"{entry.module}: the first docstring line is a sentence"
        assert entry.method.source
        assert entry.method.claim


def test_reading_the_catalogue_imports_no_method():
    code = (
        "import sys; from torchard.core.method import catalogue; catalogue(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
