"""What one session saw: frames (user functions and resume functions), and an entry for each compilation of
one."""

import re
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

_RESUME = re.compile(r"torch_dynamo_resume_in_(?P<function>.+)_at_(?P<line>\d+)$")
_UNIQUE = re.compile(r"(__compiled_fn_\d+)_[0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}")


@dataclass
class Break:
    """A place where Dynamo ended a graph."""

    line: int | None
    reason: str


@dataclass
class Entry:
    """One compilation of a frame: transformed code, guards, graphs, kernels."""

    compile_id: str | None
    number: int
    code: CodeType | None = None
    source: str = ""
    executed: bool = False
    strategy: str = ""
    equivalence: str = ""
    guards: str = ""
    graphs: dict[str, str] = field(default_factory=dict)
    kernels: list[tuple[str, str]] = field(default_factory=list)  # (torch's own path, text)
    other: dict[str, str] = field(default_factory=dict)
    breaks: list[Break] = field(default_factory=list)
    recompile: str = ""
    seconds: float | None = None
    files: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # clean name -> torch's unique one


@dataclass
class Frame:
    """A function that Dynamo met."""

    code: CodeType
    name: str
    directory: str
    entries: list[Entry] = field(default_factory=list)
    resumed_from: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def breaks(self) -> list[Break]:
        """The graph breaks of all entries, each once."""
        seen: dict[tuple[Any, str], Break] = {}
        for entry in self.entries:
            for one in entry.breaks:
                seen.setdefault((one.line, one.reason.split("\n")[0]), one)
        return list(seen.values())


def frame_name(code: CodeType) -> tuple[str, str | None]:
    """Return a frame's short name, and for a resume function the name of the function it goes on with."""
    match = _RESUME.match(code.co_name)
    if match:
        return f"{match['function']}__resume_L{match['line']}", match["function"]
    return code.co_name, None


def safe_name(text: str) -> str:
    """Return a file name made of ``text`` that stays inside its folder on every system."""
    clean = re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")[:80]
    return clean or "code"


def clean_names(source: str) -> tuple[str, dict[str, str]]:
    """Return ``source`` without the random parts of Dynamo's names, and the unique name of each shortened
    one."""
    names: dict[str, str] = {}

    def shorten(match: re.Match[str]) -> str:
        short = match[1]
        if names.setdefault(short, match[0]) != match[0]:
            return match[0]
        return short

    return _UNIQUE.sub(shorten, source), names


def shorten(text: str) -> str:
    """Return any text without the random parts of Dynamo's names."""
    return _UNIQUE.sub(r"\1", text)
