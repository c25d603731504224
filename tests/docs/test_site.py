"""What the site takes from the code, and that a reader's browser fetches nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.hooks.site import MACRO, expanded, markdown_table, methods_table, results_table
from experiments import record
from tests.conftest import ROOT
from torchard.cli.console import Column
from torchard.core.method import CatalogueEntry, Method

ENTRIES = [
    CatalogueEntry("prune", "depgraph", "Prune | any network.", Method(("transform",), source="F", claim="")),
    CatalogueEntry("select", "logme", "Score.", Method(("measure", "tool"), source="Y", claim="")),
    CatalogueEntry("", "compiler", "Look.", Method(("tool",), source="Z", claim="")),
]


def test_the_methods_table_links_the_pages_that_are_there():
    table = methods_table(ENTRIES, {"methods/logme.md": None}, "../")
    assert table.splitlines()[2:] == [
        r"| depgraph | prune | transform | Prune \| any network. | F |",
        "| [logme](../methods/logme.md) | select | measure, tool | Score. | Y |",
        "| compiler | compiler | tool | Look. | Z |",
    ]


@pytest.mark.parametrize(("package", "slugs"), [("select", ["logme"]), ("compiler", ["compiler"])])
def test_the_methods_of_one_package(package, slugs):
    rows = methods_table(ENTRIES, {}, "", package=package).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == slugs


def test_a_measured_result_is_shown_with_where_and_when(tmp_path, monkeypatch, capsys):
    rows = [{"arm": "a|b", "test": 0.5, "test sd": 0.01}]
    columns = [Column("arm"), Column("test", digits=2, spread="test sd")]
    record.save(tmp_path / "x.json", rows, columns, claim="It\nwins.", verdict="It does.")
    shown = results_table("x", tmp_path)
    assert shown.startswith(
        "Expected: It wins.\n\n| arm | test |\n| --- | --- |\n| a\\|b | 0.50 ± 0.01 |\n\n"
    )
    assert "**It does.**" in shown
    measured = json.loads((tmp_path / "x.json").read_text())["measured"]
    assert measured["date"] in shown
    assert f"`{measured['command']}`" in shown


def test_a_method_without_results_says_so_and_a_wrong_name_is_an_error(tmp_path):
    assert results_table("ssf", tmp_path) == "*Not measured yet.*"
    with pytest.raises(ValueError, match=r"no results/sff\.json"):
        results_table("sff", tmp_path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{{ methods() }}", ("methods", None)),
        ('{{ methods("prune") }}', ("methods", "prune")),
        ('{{results("ssf")}}', ("results", "ssf")),
        ('say `{{ results("ssf") }}` in a sentence', None),
        ('{{ results("../../etc/passwd; x") }}', None),
        ("{{ 7*7 }}", None),
    ],
)
def test_a_macro_stands_alone_on_its_line(line, found):
    match = MACRO.search(line)
    assert (match and (match["name"], match["argument"])) == found


def test_a_folder_in_the_nav_becomes_its_pages(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "guides").mkdir()
    for name in ("ssf.md", "index.md", "logme.md", "picture.svg"):
        (tmp_path / "methods" / name).touch()
    nav = [{"Home": "index.md"}, {"Methods": "methods/"}, {"Guides": "guides/"}]
    pages = ["methods/index.md", "methods/logme.md", "methods/ssf.md"]
    assert expanded(nav, tmp_path) == [{"Home": "index.md"}, {"Methods": pages}]


def test_a_cell_cannot_break_its_table():
    assert markdown_table(["a"], [["x | y\nz"]]) == "| a |\n| --- |\n| x \\| y z |"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site):
    loads = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 5
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert not re.search(r"""(?:url\(|@import)\s*["']?https?:""", styles)


def test_the_site_has_all_methods_and_leaves_no_macro_behind(site):
    page = (site / "methods" / "index.html").read_text(encoding="utf-8")
    assert "logme" in page
    for file in site.rglob("*.html"):
        assert not MACRO.search(file.read_text(encoding="utf-8"))
    assert not list(site.rglob("*.py"))
