"""List the methods, or tell of one: its paper and the paper's claim.

Nothing is imported for this: the list is read from the cards that open the method modules.
"""

from dataclasses import asdict
from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table
from torchard.core.errors import UsageError
from torchard.core.method import CatalogueEntry, catalogue


def command(
    pattern: Annotated[str, typer.Argument(help="Part of a name, a summary or a shape, such as prune.")] = "",
) -> None:
    entries = catalogue()
    found = [entry for entry in entries if _matches(entry, pattern)]
    if pattern and not found:
        names = ", ".join(entry.path for entry in entries) or "none yet"
        raise UsageError(f"no method matches {pattern!r}; there are: {names}")
    emit({"methods": [_facts(entry) for entry in found]}, _show)


def _show(facts: Facts) -> None:
    methods = facts["methods"]
    if len(methods) == 1:
        _show_one(methods[0])
        return
    print_table(methods, [Column("method"), Column("shapes", "shape"), Column("summary", "what it does")])


def _show_one(method: Facts) -> None:
    print_line(method["method"], style="bold")
    print_line(method["summary"])
    print_line()
    print_line(f"Source: {method['source']}")
    print_line(f"Claim: {method['claim']}")
    print_line(f"Import: from torchard.{method['package']} import {method['slug']}")
    print_line(f"Measure it in a clone: make bench METHOD={method['method']}")


def _matches(entry: CatalogueEntry, pattern: str) -> bool:
    text = " ".join([entry.path, entry.summary, *entry.method.shapes])
    return pattern.casefold() in text.casefold()


def _facts(entry: CatalogueEntry) -> Facts:
    return {
        "method": entry.path,
        "package": entry.package,
        "slug": entry.slug,
        "summary": entry.summary,
        **asdict(entry.method),
    }
