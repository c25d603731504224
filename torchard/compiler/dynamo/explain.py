"""One call of a function under ``torch.compile``, told: graphs, breaks, guards, recompilations."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchard.compiler.dynamo.index import index_markdown, telling_line
from torchard.compiler.dynamo.session import prepare_debug


@dataclass(frozen=True)
class Explanation:
    """What happened; ``str()`` is Markdown.

    ``graphs`` holds the source of each graph Dynamo made, ``breaks`` (frame, line, reason), ``guards`` the
    guard text of each compilation, ``recompiles`` (frame, reason).
    """

    graphs: tuple[str, ...]
    breaks: tuple[tuple[str, int | None, str], ...]
    guards: tuple[str, ...]
    recompiles: tuple[tuple[str, str], ...]
    result: Any = field(repr=False, default=None)
    markdown: str = field(repr=False, default="")

    def __str__(self) -> str:
        return self.markdown


def explain(fn: Callable[..., Any], *args: Any, backend: str = "eager", **kwargs: Any) -> Explanation:
    """Compile ``fn`` afresh with ``backend``, call it once with the arguments, and return what Dynamo did.

    The backend really runs, unlike in ``torch._dynamo.explain``. What is compiled stays in Dynamo's cache.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        with prepare_debug(folder) as session:
            result = torch.compile(fn, backend=backend)(*args, **kwargs)
        entries = [(frame, entry) for frame in session.frames for entry in frame.entries]
        return Explanation(
            graphs=tuple(entry.graphs["dynamo"] for _, entry in entries if "dynamo" in entry.graphs),
            breaks=tuple(
                (frame.name, one.line, one.reason) for frame in session.frames for one in frame.breaks
            ),
            guards=tuple(entry.guards for _, entry in entries if entry.guards),
            recompiles=tuple(
                (frame.name, entry.recompile) for frame in session.frames for entry in frame.entries[1:]
            ),
            result=result,
            markdown=index_markdown(session, links=False),
        )


def compare(first: Path, second: Path) -> list[str]:
    """Return what differs between the indexes of two dumps: breaks, recompilations and graphs gained or lost.

    Raises:
        FileNotFoundError: if one of them holds no ``index.json``.
    """
    one, two = (_facts(folder) for folder in (first, second))
    lines = [f"- {text}" for text in sorted(one - two)] + [f"+ {text}" for text in sorted(two - one)]
    return lines or ["no difference"]


def _facts(folder: Path) -> set[str]:
    path = Path(folder) / "index.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the folder of a dump")
    frames = json.loads(path.read_text())["frames"]
    facts = set()
    for frame in frames:
        graphs = sum(kind.endswith("/dynamo") for entry in frame["entries"] for kind in entry["files"])
        facts.add(f"{frame['name']}: {len(frame['entries'])} compilations, {graphs} graphs")
        for number, entry in enumerate(frame["entries"][1:], 1):
            facts.add(f"{frame['name']}: compiled again ({number}): {telling_line(entry['recompile'])}")
        for one in frame["breaks"]:
            facts.add(f"{frame['name']}: break at line {one['line']}: {one['reason'].splitlines()[0]}")
    return facts
