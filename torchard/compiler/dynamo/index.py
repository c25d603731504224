"""The index of a dump: what to look at first, then frame by frame, as Markdown and as one plain HTML page."""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torchard.compiler.dynamo.records import Entry, Frame

_COMMENT = re.compile(r"\s{2,}#")  # torch writes the code a guard came from far to the right
_WHICH = re.compile(r'^"?\d+/\d+(?:_\d+)?: ')  # which earlier entry did not fit
_STEPPED = re.compile(r"^graph_\d+/forward_(?=\d)")  # where a debugger stops in a graph
_GENERIC = "Encountered graph break when attempting to trace"
_MAIN = ("dynamo", "joint", "forward", "backward", "inference")
_HEADS = ("entry", "code", "guards", "graphs and kernels", "compiled again because", "seconds")

# A run of text is a string, ("code", text) or ("link", text, path); a block is its kind and what it holds.
Run = str | tuple[str, ...]
Runs = Sequence[Run]
Block = tuple[Any, ...]


def index_facts(session: Any) -> dict[str, Any]:
    """Return the index as plain values: frames, entries, breaks, files, names."""
    import torch

    return {
        "format": 1,
        "torch": str(torch.__version__),
        "seconds": round(session.seconds, 3),
        "failures": session.failures,
        "frames": [_frame_facts(frame) for frame in session.frames],
    }


def index_markdown(session: Any, *, links: bool = True) -> str:
    """Return the index as Markdown; without ``links`` it can be read when the files are gone."""
    parts = [
        _MARKDOWN[kind](*rest, links=links) for kind, *rest in _blocks(session) if links or kind != "more"
    ]
    return "\n\n".join(parts) + "\n"


def index_html(session: Any) -> str:
    """Return the index as one page that needs nothing from elsewhere."""
    body = "\n".join(_HTML[kind](*rest) for kind, *rest in _blocks(session))
    return _PAGE.replace("BODY", body)


def telling_line(text: str) -> str:
    """Return the line of a reason that tells most."""
    lines = [line.strip() for line in text.strip('[]" \n').splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("Graph Break Reason:")), lines[0] if lines else "")
    told = told.removeprefix("Graph Break Reason:").strip()
    if told.startswith(_GENERIC):
        told = next((line for line in lines if line.startswith("Explanation:")), told)
    told = _COMMENT.split(_WHICH.sub("", told.removeprefix("Explanation:").strip()))[0]
    return told.removesuffix('",')[:200]


def _hint(text: str) -> str:
    """Torch's first advice how to mend a break, if it gives one."""
    found = re.search(r"^\s*Hint: (.+)$", text, re.MULTILINE)
    return found[1].strip()[:300] if found else ""


def _frame_facts(frame: Frame) -> dict[str, Any]:
    return {
        "name": frame.name,
        "file": frame.code.co_filename,
        "line": frame.code.co_firstlineno,
        "resumed_from": frame.resumed_from,
        "files": frame.files,
        "breaks": [{"line": one.line, "reason": one.reason} for one in frame.breaks],
        "entries": [
            {
                "compile_id": entry.compile_id,
                "executed": entry.executed,
                "strategy": entry.strategy,
                "equivalence": entry.equivalence,
                "recompile": entry.recompile,
                "seconds": entry.seconds,
                "kernels": [path for path, _ in entry.kernels],
                "names": entry.names,
                "files": entry.files,
            }
            for entry in frame.entries
        ],
    }


# -- what the index says


def _blocks(session: Any) -> list[Block]:
    breaks = [(frame, one) for frame in session.frames for one in frame.breaks]
    again = [(frame, entry) for frame in session.frames for entry in frame.entries[1:]]
    entries = sum(len(frame.entries) for frame in session.frames)
    counts = [_count(len(session.frames), "function"), _count(entries, "compilation"),
              _count(len(breaks), "graph break"), _count(len(again), "recompilation")]  # fmt: skip
    blocks: list[Block] = [("title", "What torch.compile made"), ("text", [", ".join(counts) + "."])]
    if breaks:
        blocks += [("head", "Graph breaks"), ("list", [_break(frame, one) for frame, one in breaks])]
    if again:
        blocks += [("head", "Recompilations"), ("list", [_again(frame, entry) for frame, entry in again])]
    for frame in session.frames:
        blocks += _frame(frame)
    if session.failures:
        blocks += [("head", "Not written"), ("list", [[failure] for failure in session.failures])]
    return blocks


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _break(frame: Frame, one: Any) -> list[Run]:
    hint = _hint(one.reason)
    told: list[Run] = [("code", frame.name), f" line {one.line or '?'}: {telling_line(one.reason)}"]
    return [*told, f" — torch's advice: {hint}"] if hint else told


def _again(frame: Frame, entry: Entry) -> list[Run]:
    reason = telling_line(entry.recompile) or "no reason given"
    return [("code", frame.name), f" entry {entry.number}: {reason}", *_links(entry, " (", "recompile_", ")")]


def _frame(frame: Frame) -> list[Block]:
    where: list[Run] = [f"{Path(frame.code.co_filename).name}:{frame.code.co_firstlineno}"]
    if frame.resumed_from:
        where += [", goes on with ", ("code", frame.resumed_from)]
    for kind, path in sorted(frame.files.items()):
        where += [" · ", ("link", kind, path)]
    rows = [_row(entry) for entry in frame.entries]
    shown = {run[2] for row in rows for cell in row for run in cell if isinstance(run, tuple) and run[2:]}
    others = [
        ("link", f"{entry.number}: {kind.split('/', 1)[-1]}", path)
        for entry in frame.entries
        for kind, path in entry.files.items()
        if path not in shown
    ]
    blocks: list[Block] = [("head", frame.name), ("text", where), ("table", rows)]
    return (
        [*blocks, ("more", f"{_count(len(others), 'other file')} of {frame.name}", others)]
        if others
        else blocks
    )


def _row(entry: Entry) -> list[list[Run]]:
    proof = (
        f"proved {entry.equivalence}" if entry.equivalence in ("identical", "equivalent") else "not proved"
    )
    state = f", {proof}" if entry.executed else f", {proof}: reading copy, not executed"
    number = entry.number
    graphs = [f"graph_{number}/{kind}" for kind in _MAIN if f"graph_{number}/{kind}" in entry.files]
    graphs += [key for key in entry.files if _STEPPED.search(key) or key.startswith("kernel_")]
    drawn: list[Run] = []
    for key in graphs:
        label = _STEPPED.sub("step into ", key) if _STEPPED.search(key) else key.split("/")[-1]
        drawn += [" · ", ("link", label, entry.files[key])]
    why = telling_line(entry.recompile) if number else ""
    seconds = f"{entry.seconds:.2f}" if entry.seconds is not None else ""
    return [
        [str(number)], [*_links(entry, "", "transformed_", ""), state], _links(entry, "", "guard_", ""),
        drawn[1:], [why, *_links(entry, " ", "recompile_", "")], [seconds],
    ]  # fmt: skip


def _links(entry: Entry, before: str, prefix: str, after: str) -> list[Run]:
    """The entry's file whose name begins with ``prefix``, as a link between two texts."""
    found = next(((key, path) for key, path in entry.files.items() if key.startswith(prefix)), None)
    return [] if found is None else [before, ("link", *found), after]


# -- as Markdown


def _marked(runs: Runs, *, links: bool) -> str:
    return "".join(_marked_run(run, links=links) for run in runs)


def _marked_run(run: Run, *, links: bool) -> str:
    if isinstance(run, str):
        return " ".join(run.split("\n")).replace("|", "\\|").replace("<", "&lt;")
    if run[0] == "code":
        return f"`{run[1].replace('`', '')}`"
    return f"[{run[1]}]({quote(run[2])})" if links else run[1]


def _marked_table(rows: list[list[Runs]], *, links: bool) -> str:
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + " --- |" * len(_HEADS)]
    lines += ["| " + " | ".join(_marked(cell, links=links) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _marked_more(summary: str, items: list[Run], *, links: bool) -> str:
    listed = " · ".join(_marked_run(item, links=links) for item in items)
    return f"<details><summary>{html.escape(summary)}</summary>\n\n{listed}\n\n</details>"


_MARKDOWN: dict[str, Callable[..., str]] = {
    "title": lambda text, links: f"# {text}",
    "head": lambda text, links: "## " + _marked_run(text, links=links),
    "text": lambda runs, links: _marked(runs, links=links),
    "list": lambda items, links: "\n".join("- " + _marked(runs, links=links) for runs in items),
    "table": _marked_table,
    "more": _marked_more,
}


# -- as HTML


def _tagged(runs: Runs) -> str:
    return "".join(map(_tagged_run, runs))


def _tagged_run(run: Run) -> str:
    if isinstance(run, str):
        return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(run))
    if run[0] == "code":
        return f"<code>{html.escape(run[1])}</code>"
    return f'<a href="{html.escape(quote(run[2]))}">{html.escape(run[1])}</a>'


def _tagged_table(rows: list[list[Runs]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in _HEADS)
    lines = ["".join(f"<td>{_tagged(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


_HTML: dict[str, Callable[..., str]] = {
    "title": lambda text: f"<h1>{html.escape(text)}</h1>",
    "head": lambda text: f"<h2>{html.escape(text)}</h2>",
    "text": lambda runs: f"<p>{_tagged(runs)}</p>",
    "list": lambda items: "<ul>" + "".join(f"<li>{_tagged(runs)}</li>" for runs in items) + "</ul>",
    "table": _tagged_table,
    "more": lambda summary, items: (
        f"<details><summary>{html.escape(summary)}</summary><p>"
        + " · ".join(map(_tagged_run, items))
        + "</p></details>"
    ),
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>What torch.compile made</title>
<style>
body {
  font: 16px/1.5 system-ui, sans-serif; color: #1d2433; max-width: 70rem; margin: 2rem auto; padding: 0 1rem
}
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
code { background: #eef1f6; border-radius: 3px; padding: .1em .3em; font-size: .9em }
a { color: #1a5fb4; text-decoration: none } a:hover { text-decoration: underline }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th { text-align: left; font-weight: 600; color: #5b6577 }
th, td { border-bottom: 1px solid #dfe4ec; padding: .35rem .6rem .35rem 0; vertical-align: top }
details { color: #5b6577; font-size: .9rem; margin-top: .5rem }
@media (prefers-color-scheme: dark) {
  body { background: #14181f; color: #dde3ec } code { background: #242b36 } a { color: #7fb2ff }
  th, td { border-color: #2c3441 }
}
</style>
BODY
</html>
"""
