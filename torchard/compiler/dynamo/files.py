"""The folder of a session: every artefact as valid Python, linked from the index (HTML, Markdown, JSON)."""

import ast
import difflib
import dis
import inspect
import linecache
import textwrap
from pathlib import Path
from typing import Any

from torchard.compiler.decompile import decompile_code
from torchard.compiler.dynamo.index import index_facts, index_html, index_markdown, telling_line
from torchard.compiler.dynamo.records import Entry, Frame, safe_name, shorten
from torchard.core.files import write_atomic, write_json

READING = "# Reading copy, not executed: not proved equal to the code that runs.\n"


def write_all(session: Any) -> None:
    """Write what is known at the end: originals, guards, graphs, kernels, differences, the index."""
    for frame in session.frames:
        _write(session, frame, "original", f"{frame.directory}/original.py", original_source(frame))
        for entry in frame.entries:
            _write_guards(session, frame, entry)
            _write_graphs(session, frame, entry)
            _write_kernels(session, frame, entry)
        _write(session, frame, "full", f"{frame.directory}/full.py", full_source(frame))
        _write_differences(session, frame)
        if frame.resumed_from:
            _write_resume(session, frame)
    write_json(session.directory / "index.json", index_facts(session))
    write_atomic(session.directory / "index.md", index_markdown(session))
    write_atomic(session.directory / "index.html", index_html(session))


def write_transformed(session: Any, frame: Frame, entry: Entry) -> Path:
    """Write one transformed function; return its path."""
    head = READING if entry.equivalence == "unverified" or (entry.executed is False and entry.files) else ""
    name = f"{frame.directory}/transformed_{entry.number}.py"
    path = _put(session, name, head + entry.source)
    entry.files[f"transformed_{entry.number}"] = name
    linecache.checkcache(str(path))
    return path


def write_bytecode(session: Any, frame: Frame, entry: Entry) -> None:
    """Write the disassembly that the transformed function was made from."""
    lines = [f"# {line}" for line in shorten(dis.Bytecode(entry.code).dis()).splitlines()]  # type: ignore[arg-type]
    name = f"{frame.directory}/bytecode_{entry.number}.py"
    _put(session, name, "\n".join(lines) + "\n")
    entry.files[f"bytecode_{entry.number}"] = name


def write_graph_source(session: Any, compile_id: str, number: int, source: str) -> Path:
    """Write the generated ``forward`` of an FX graph, to be compiled from there."""
    path = _put(session, f"fx/{safe_name(compile_id)}/forward_{number}.py", source)
    linecache.checkcache(str(path))
    return path


def guard_key(session: Any, frame: Frame, entry: Entry) -> str:
    """The name under which live guards are kept for the guard file."""
    return f"{session.directory}/{frame.directory}/guard_{entry.number}"


# -- sources


def original_source(frame: Frame) -> str:
    """Return the user's source with a comment above each line that ended a graph."""
    code = frame.code
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError):
        lines, first = [], 0
    text = textwrap.dedent("".join(lines))
    if frame.resumed_from or not _parses(text):
        return _decompiled(code)
    marked = list(text.splitlines(keepends=True))
    for one in sorted(frame.breaks, key=lambda one: -(one.line or 0)):
        place = (one.line or 0) - first
        if 0 <= place < len(marked):
            indent = marked[place][: len(marked[place]) - len(marked[place].lstrip())]
            marked.insert(place, f"{indent}# graph break: {telling_line(one.reason)}\n")
    result = "".join(marked)
    return result if _parses(result) else text


def _decompiled(code: Any) -> str:
    try:
        return "# Decompiled: the source is not at hand, or Dynamo wrote this function.\n" + shorten(
            decompile_code(code).source
        )
    except ValueError as error:
        return f"# No source: {' '.join(str(error).split())}\n"


def full_source(frame: Frame) -> str:
    """Return what a call does now: the first entry whose guards hold, else the original, compiled anew."""
    code = frame.code
    count = code.co_argcount + code.co_kwonlyargcount
    names = [name for name in code.co_varnames[:count] if name.isidentifier()]
    lines = [f'"""What a call of {frame.name} does: the first entry whose guards hold runs."""\n']
    own = _defined(original_source(frame))
    lines.append(f"from .original import {own} as original")
    for entry in frame.entries:
        lines.append(f"from .guard_{entry.number} import guard_{entry.number}")
        lines.append(
            f"from .transformed_{entry.number} import {_defined(entry.source)} as transformed_{entry.number}"
        )
    call = ", ".join(names)
    lines += ["", f"def {safe_name(frame.name)}({call}):", "    L = locals()"]
    for entry in frame.entries:
        lines += [f"    if guard_{entry.number}(L):", f"        return transformed_{entry.number}({call})"]
    lines.append(f"    return original({call})  # no entry fits: Dynamo compiles another, up to its limit")
    return "\n".join(lines) + "\n"


def _defined(source: str) -> str:
    found = [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return found[0] if found else "code"


def _write_guards(session: Any, frame: Frame, entry: Entry) -> None:
    checks = []
    for line in entry.guards.splitlines():
        text, _, where = line.partition("  # ")
        if text.strip(" |+-"):
            checks.append(
                f"    _check({shorten(text.rstrip())!r})" + (f"  # {where.strip()}" if where else "")
            )
    body = "\n".join(checks) or "    pass"
    source = (
        f'"""Guards of {frame.name}, entry {entry.number}: it is used again while all of these hold."""\n\n'
        "from torchard.compiler.dynamo import live\n\n\n"
        f"def guard_{entry.number}(L):\n"
        '    """Ask the live guards whether they accept the local variables ``L``."""\n'
        f"    return live.check({guard_key(session, frame, entry)!r}, L)\n\n\n"
        "def _check(text):\n"
        '    """One guard, as torch tells it."""\n\n\n'
        f"def guards():\n{body}\n"
    )
    name = f"{frame.directory}/guard_{entry.number}.py"
    _put(session, name, _valid(source))
    entry.files[f"guard_{entry.number}"] = name


def _write_graphs(session: Any, frame: Frame, entry: Entry) -> None:
    for kind, text in {
        **entry.graphs,
        **{f"other/{name}": text for name, text in entry.other.items()},
    }.items():
        name = f"{frame.directory}/graph_{entry.number}/{kind}.py"
        _put(session, name, _valid(shorten(text).replace("class <lambda>(", "class Graph(")))
        entry.files[f"graph_{entry.number}/{kind}"] = name
    for path in sorted(
        (session.directory / "fx" / safe_name(entry.compile_id or "none")).glob("forward_*.py")
    ):
        entry.files[f"graph_{entry.number}/{path.stem}"] = str(path.relative_to(session.directory))


def _write_kernels(session: Any, frame: Frame, entry: Entry) -> None:
    for number, (path, text) in enumerate(entry.kernels):
        name = f"{frame.directory}/kernel_{entry.number}_{number}.py"
        _put(session, name, _valid(f"# torch runs its own copy: {path}\n{text}"))
        entry.files[f"kernel_{entry.number}_{number}"] = name


def _write_differences(session: Any, frame: Frame) -> None:
    for before, after in zip(frame.entries, frame.entries[1:]):
        old, new = (one.graphs.get("dynamo", "").splitlines(keepends=True) for one in (before, after))
        held, holds = (shorten(one.guards).splitlines(keepends=True) for one in (before, after))
        text = f"Why entry {after.number}: {after.recompile.strip() or 'torch gave no reason'}\n\n"
        text += "".join(difflib.unified_diff(old, new, f"graph_{before.number}", f"graph_{after.number}"))
        text += "".join(
            difflib.unified_diff(held, holds, f"guards_{before.number}", f"guards_{after.number}", n=0)
        )
        name = f"{frame.directory}/recompile_{before.number}_{after.number}.diff"
        _put(session, name, shorten(text))
        after.files[f"recompile_{before.number}_{after.number}"] = name


def _write_resume(session: Any, frame: Frame) -> None:
    """A copy beside the function that the resume function goes on with."""
    parent = next((one for one in session.frames if one.name == frame.resumed_from), None)
    if parent is None:
        return
    line = frame.name.rsplit("_L", 1)[-1]
    number = sum(key.startswith(f"resume_L{line}_") for key in parent.files)
    _write(session, parent, f"resume_L{line}_{number}", f"{parent.directory}/resume_L{line}_{number}.py",
           original_source(frame))  # fmt: skip


# -- writing


def _write(session: Any, frame: Frame, kind: str, name: str, text: str) -> None:
    _put(session, name, text)
    frame.files[kind] = name


def _put(session: Any, name: str, text: str) -> Path:
    path: Path = session.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return path


def _valid(source: str) -> str:
    """The text as a Python file: itself, or a string if torch writes no Python there."""
    return source if _parses(source) else f"TEXT = {source!r}\n"


def _parses(source: str) -> bool:
    if not source.strip():
        return False
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True
