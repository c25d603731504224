"""One inspection of ``torch.compile``: capture while it works, write what it made, run code from the
files."""

import contextlib
import os
import re
import time
import warnings
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from torchard.compiler.dynamo import compat, files, index, live
from torchard.compiler.dynamo.records import Break, Entry, Frame, frame_name, safe_name
from torchard.compiler.dynamo.transformed import compiled_from, decompile_into

_GRAPHS = {
    "dynamo_output_graph": "dynamo", "aot_joint_graph": "joint", "aot_forward_graph": "forward",
    "aot_backward_graph": "backward", "aot_inference_graph": "inference",
    "inductor_pre_grad_graph": "pre_grad", "before_pre_grad_graph": "pre_grad_before",
    "after_pre_grad_graph": "pre_grad", "inductor_post_grad_graph": "post_grad",
    "before_post_grad_graph": "post_grad_before", "after_post_grad_graph": "post_grad",
}  # fmt: skip
_TOLD_ELSEWHERE = {  # records of the trace that say nothing of what was made, or nothing that two runs share
    "attempt", "bwd_compilation_metrics", "chromium_event", "compiled_autograd_id", "create_symbol",
    "describe_source", "describe_storage", "describe_tensor", "dynamo_start", "frame_compile_id", "frame_id",
    "has_payload", "inductor_output_code", "process", "rank", "stack", "str",
}  # fmt: skip
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)|at (?P<file2>\S+):(?P<line2>\d+)')
_SOURCES = 40  # FX sources kept for one compilation: each pass over a graph writes a new one

_open: "list[Session]" = []
_last: "list[Session]" = []


class Session:
    """What was captured, and where it lies on disk.

    ``frames`` are the functions Dynamo met; ``entries(fn)`` the compilations of one, ``path(fn, kind)`` a
    file.
    """

    def __init__(self, directory: Path, *, kernels: bool, bytecode: bool) -> None:
        self.directory = directory
        self.kernels = kernels
        self.bytecode = bytecode
        self.frames: list[Frame] = []
        self.seconds = 0.0
        self.failures: list[str] = []
        self._by_code: dict[CodeType, Frame] = {}
        self._pending: dict[str, Entry] = {}
        self._working = False
        self._sources: dict[str, dict[str, str]] = {}

    def entries(self, fn: Callable[..., Any] | str) -> list[Entry]:
        """Return the compilations of a function (or of the frame with that name).

        Raises:
            KeyError: if no such frame was compiled; the message lists those there are.
        """
        return self._frame(fn).entries

    def path(self, fn: Callable[..., Any] | str, kind: str) -> Path:
        """Return the file of ``kind`` ("original", "full", "transformed_0", "guard_0", "graph_0/dynamo", …).

        Raises:
            KeyError: if there is no such frame or file; the message lists those there are.
        """
        frame = self._frame(fn)
        found = {**frame.files, **{key: path for entry in frame.entries for key, path in entry.files.items()}}
        if kind not in found:
            raise KeyError(f"no file {kind!r} for {frame.name!r}; there are: {', '.join(sorted(found))}")
        return self.directory / found[kind]

    def summary(self) -> str:
        """Return the index as Markdown."""
        return index.index_markdown(self)

    def open(self) -> None:
        """Show the index in the browser."""
        webbrowser.open((self.directory / "index.html").as_uri())

    def _frame(self, fn: Callable[..., Any] | str) -> Frame:
        for frame in self.frames:
            if frame.name == fn or frame.code is _code_of(fn):
                return frame
        names = ", ".join(frame.name for frame in self.frames) or "none"
        raise KeyError(f"{fn!r} was not compiled in this session; frames: {names}")

    # -- what the seams call

    def on_bytecode(self, old: CodeType, new: CodeType) -> CodeType | None:
        """Write the transformed code's source; give back the code compiled from that file if it is proved
        equal."""
        if self._working:
            return None
        self._working = True
        try:
            return self._transformed(old, new)
        except Exception as error:  # a hook that raises would break the user's program
            self.failures.append(f"{old.co_name}: {type(error).__name__}: {error}")
            return None
        finally:
            self._working = False

    def _transformed(self, old: CodeType, new: CodeType) -> CodeType | None:
        frame = self._frame_for(old)
        entry = self._entry(compat.compile_id())
        entry.number = len(frame.entries)
        frame.entries.append(entry)
        decompile_into(entry, new)
        path = files.write_transformed(self, frame, entry)
        twin = compiled_from(entry, str(path))
        entry.executed = twin is not None
        if twin is None:
            files.write_transformed(self, frame, entry)
        if self.bytecode:
            files.write_bytecode(self, frame, entry)
        return twin

    def on_trace(self, metadata: dict[str, Any], payload: str) -> None:
        """Sort a record of the structured trace into its compilation."""
        if metadata.get("frame_id") is None:
            return
        entry = self._entry(f"{metadata['frame_id']}/{metadata.get('frame_compile_id')}")
        for kind, value in metadata.items():
            if kind in _GRAPHS:
                entry.graphs[_GRAPHS[kind]] = payload
            elif kind == "inductor_output_code" and self.kernels:
                entry.kernels.append((str((value or {}).get("filename", "")), payload))
            elif kind == "dynamo_cpp_guards_str":
                entry.guards = payload
            elif kind == "compilation_metrics":
                entry.seconds = _seconds(value)
            elif kind == "artifact":
                self._artifact(entry, str((value or {}).get("name", "artifact")), payload)
            elif payload and kind not in _TOLD_ELSEWHERE:
                entry.other[safe_name(kind)] = payload

    def _artifact(self, entry: Entry, name: str, payload: str) -> None:
        if name == "dynamo_graph_break_reason":
            entry.breaks.append(Break(_line_of(payload), payload.split("\nTraceback")[0].strip()))
        elif name == "recompile_reasons":
            entry.recompile = payload
        elif name in _GRAPHS:
            entry.graphs[_GRAPHS[name]] = payload
        elif not name.endswith("_BYTECODE") and name != "torch._functorch.config":
            entry.other[safe_name(name)] = payload

    def on_graph_source(self, source: str) -> str | None:
        """Return the file that an FX graph's ``forward`` is compiled from, written now; None outside
        compilations."""
        current = compat.compile_id()
        if current is None or self._working:
            return None
        known = self._sources.setdefault(current, {})
        if source not in known:
            if len(known) >= _SOURCES:
                return None
            known[source] = str(files.write_graph_source(self, current, len(known), source))
        return known[source]

    # -- bookkeeping

    def _entry(self, compile_id: str | None) -> Entry:
        if compile_id is None:
            return Entry(None, 0)
        return self._pending.setdefault(compile_id, Entry(compile_id, 0))

    def _frame_for(self, code: CodeType) -> Frame:
        frame = self._by_code.get(code)
        if frame is None:
            name, resumed = frame_name(code)
            taken = {other.directory for other in self.frames}
            directory = base = safe_name(name)
            number = 2
            while directory in taken:
                directory, number = f"{base}_{number}", number + 1
            frame = Frame(code, name, directory, resumed_from=resumed)
            self._by_code[code] = frame
            self.frames.append(frame)
        return frame

    def finish(self) -> None:
        """Read the cache entries that are still alive and write everything."""
        for frame in self.frames:
            for cached in compat.cache_entries(frame.code):
                number = str(getattr(cached, "compile_id", ""))
                for entry in frame.entries:
                    if entry.compile_id == number and getattr(cached, "guard_manager", None) is not None:
                        live.remember(files.guard_key(self, frame, entry), cached.guard_manager)
        files.write_all(self)


@contextlib.contextmanager
def prepare_debug(
    directory: str | Path, *, kernels: bool = True, bytecode: bool = False, overwrite: bool = True
) -> Iterator[Session]:
    """Write what ``torch.compile`` makes inside the ``with`` to ``directory``, and run transformed code from
    there.

    Code that is not proved equal to what Dynamo made is written for reading only; Dynamo's own runs. In a
    distributed run each rank writes to its own ``rank_<n>`` below ``directory``. On leaving, every hook,
    handler, patched name and log level is as it was, also after an exception.

    Raises:
        RuntimeError: inside another ``prepare_debug``.
        FileExistsError: if ``overwrite`` is off and the directory holds anything.
    """
    if _open:
        raise RuntimeError("`prepare_debug` is already active; leave it before entering another")
    session = Session(_prepared(Path(directory), overwrite), kernels=kernels, bytecode=bytecode)
    started = time.perf_counter()
    _open.append(session)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(_close, session, started)
            stack.enter_context(compat.trace_records(session.on_trace))
            stack.enter_context(compat.graph_sources(session.on_graph_source))
            handle = compat.register_bytecode_hook(session.on_bytecode)
            stack.callback(handle.remove)
            yield session
    finally:
        _open.remove(session)


def _close(session: Session, started: float) -> None:
    session.seconds = time.perf_counter() - started
    if _last:
        live.forget(str(_last[0].directory))
    _last[:] = [session]
    session.finish()
    if not session.frames:
        warnings.warn(
            "`prepare_debug` saw no compilation: the functions were compiled before it, or never called "
            "inside it. Call torch.compiler.reset() first to compile again.",
            stacklevel=4,
        )


def _prepared(directory: Path, overwrite: bool) -> Path:
    rank = os.environ.get("RANK")
    if rank is not None and rank.isdigit():
        directory = directory / f"rank_{rank}"
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"`directory={str(directory)!r}` is a file; give a folder")
    if not overwrite and directory.exists() and any(directory.iterdir()):
        raise FileExistsError(
            f"`directory={str(directory)!r}` is not empty; give another, or leave `overwrite` on"
        )
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


@contextlib.contextmanager
def debug(*, pause: bool = True) -> Iterator[Session]:
    """Run only what is compiled already, without new compilations, and stop in the debugger first
    (``pause``).

    Breakpoints set in the files of the last :func:`prepare_debug` bind, as the code that runs was compiled
    from them. Breakpoints in graphs need the backend "eager" or "aot_eager": Inductor's kernels run their own
    file.

    Raises:
        RuntimeError: inside ``prepare_debug``, or if no session came before.
    """
    import torch

    if _open:
        raise RuntimeError("`debug` inside `prepare_debug`: leave that first, then debug what it wrote")
    if not _last:
        raise RuntimeError("`debug` needs a session: run your program once inside `prepare_debug(directory)`")
    session = _last[0]
    if any(entry.kernels for frame in session.frames for entry in frame.entries):
        print(
            "Inductor compiled these graphs: breakpoints in graph files do not stop; "
            "those in transformed code do."
        )
    with torch.compiler.set_stance("eager_on_recompile"):
        if pause:
            breakpoint()
        yield session


def _code_of(fn: Any) -> Any:
    from torchard.compiler.decompile.api import unwrap

    try:
        return unwrap(getattr(fn, "forward", fn))[0]
    except TypeError:
        return None


def _line_of(reason: str) -> int | None:
    match = None
    for match in _LINE.finditer(reason):  # noqa: B007 - the first line of the reason names the user's code
        break
    return int(match["line"] or match["line2"]) if match else None


def _seconds(metrics: Any) -> float | None:
    value = (metrics or {}).get("entire_frame_compile_time_s") if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) else None
