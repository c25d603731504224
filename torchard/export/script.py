"""The program that goes along with an exported model, made of the very source that checks it."""

import ast
import inspect
from pathlib import Path

from torchard.core import pixels
from torchard.core.files import write_atomic
from torchard.export import standalone


def write_script(folder: Path) -> Path:
    """Write ``predict.py`` into `folder`, which names pictures without torch or torchard; return its path."""
    path = folder / "predict.py"
    write_atomic(path, script())
    return path


def script() -> str:
    """Return the source of :mod:`torchard.export.standalone` with the one module it imports spelt out."""
    text = inspect.getsource(standalone)
    statement = next(node for node in ast.parse(text).body if _is_ours(node))
    lines = text.splitlines(keepends=True)
    return "".join(
        [*lines[: statement.lineno - 1], _without_docstring(pixels), *lines[statement.end_lineno :]]
    )


def _is_ours(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == pixels.__name__


def _without_docstring(module: object) -> str:
    text = inspect.getsource(module)  # type: ignore[arg-type]
    docstring = ast.parse(text).body[0]
    return "".join(text.splitlines(keepends=True)[docstring.end_lineno :]).lstrip("\n")
