"""Every block marked ``python`` in the documentation runs, page by page from top to bottom."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


def blocks(text: str) -> list[tuple[int, str]]:
    """Return (line, code) for each Python block of a page."""
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


WITH_CODE = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_a_page_runs(page: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__page__"}
    for line, code in blocks(page.read_text(encoding="utf-8")):
        # The line numbers of a failure are those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), names)


def test_blocks_are_found_with_their_lines():
    text = "a\n```python\nx = 1\n```\n```text\nno\n```\n```python title='t'\ny = 2\n```\n"
    assert blocks(text) == [(2, "x = 1\n"), (8, "y = 2\n")]
