"""What the site takes from the code: its list of pages, the table of methods, the measured results.

A page says ``{{ methods() }}`` or ``{{ methods("prune") }}`` for a table from the catalogue, and
``{{ results("ssf") }}`` for the table in ``results/ssf.json`` with where it was measured.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from torchard.core.method import CatalogueEntry, catalogue

ROOT = Path(__file__).resolve().parent.parent.parent
MACRO = re.compile(r'^\{\{ *(?P<name>methods|results)\((?:"(?P<argument>[\w./-]+)")?\) *\}\}$', re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the nav names the folder."""
    config.nav = expanded(config.nav or [], Path(config.docs_dir))
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the macros of one page."""
    known: Mapping[str, Callable[[str], str]] = {
        "methods": lambda package: methods_table(catalogue(), files.src_uris, _up(page), package=package),
        "results": lambda name: results_table(name, ROOT / "results"),
    }
    try:
        return MACRO.sub(lambda found: known[found["name"]](found["argument"] or ""), markdown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None


def expanded(nav: Sequence[Mapping[str, str]], docs: Path) -> list[dict[str, Any]]:
    """Return ``nav`` with every folder replaced by its pages, ``index.md`` first, empty ones left out."""
    items: list[dict[str, Any]] = []
    for entry in nav:
        for title, target in entry.items():
            pages = _pages(docs / target, docs) if target.endswith("/") else target
            items += [{title: pages}] if pages else []
    return items


def methods_table(
    entries: Sequence[CatalogueEntry], pages: Mapping[str, Any], up: str, *, package: str = ""
) -> str:
    """Return the catalogue as a Markdown table, each method linked to its page where it has one."""
    rows = [
        (
            f"[{entry.slug}]({up}{page})" if (page := f"methods/{entry.slug}.md") in pages else entry.slug,
            entry.package or entry.slug,
            ", ".join(entry.method.shapes),
            entry.summary,
            entry.method.source,
        )
        for entry in entries
        if package in ("", entry.package or entry.slug)
    ]
    return markdown_table(("method", "package", "shape", "what it does", "source"), rows)


def results_table(name: str, folder: Path) -> str:
    """Return what ``results/<name>.json`` holds as a Markdown table, with claim, verdict and circumstances.

    Raises:
        ValueError: if there is no such file and no method of that name, which might still be unmeasured.
    """
    file = folder / f"{name}.json"
    if not file.exists():
        if name not in {entry.slug for entry in catalogue()}:
            raise ValueError(f'{{{{ results("{name}") }}}}: there is no results/{name}.json')
        return "*Not measured yet.*"
    record = json.loads(file.read_text(encoding="utf-8"))
    claim = f"Expected: {_cell(record['claim'])}" if record["claim"] else ""
    table = markdown_table(record["table"]["columns"], record["table"]["rows"])
    verdict = f"**{_cell(record['verdict'])}**" if record["verdict"] else ""
    return "\n\n".join(filter(None, (claim, table, verdict, _where(record["measured"], name))))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; a cell can hold neither a line break nor a column's end."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _pages(folder: Path, docs: Path) -> list[str]:
    files = sorted(folder.glob("*.md"), key=lambda file: (file.name != "index.md", file.name))
    return [str(file.relative_to(docs)) for file in files]


def _where(measured: Mapping[str, Any], name: str) -> str:
    machine, versions = measured["machine"], measured["versions"]
    return (
        f"Measured on {measured['date']} by `{measured['command']}` on {machine['cores']} cores "
        f"({machine['processor']}, {machine['threads']} threads), torch {versions['torch']}; "
        f"all values are in `results/{name}.json`."
    )


def _up(page: Page) -> str:
    return "../" * page.file.src_uri.count("/")


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
