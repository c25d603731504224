"""Run a script as ``__main__`` inside :func:`prepare_debug`."""

import contextlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchard.compiler.dynamo.session import Session, prepare_debug


def run_script(script: Path, arguments: Sequence[str], out: Path, *, backend: str | None = None) -> Session:
    """Run ``script`` with ``arguments`` and return the session with what was compiled.

    ``backend`` takes the place of the backend in every ``torch.compile`` the script calls. A script that ends
    by ``sys.exit`` ends normally here.
    """
    with (
        _arguments(script, arguments),
        _backend(backend),
        prepare_debug(out) as session,
        contextlib.suppress(SystemExit),
    ):
        runpy.run_path(str(script), run_name="__main__")
    return session


@contextlib.contextmanager
def _arguments(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    before, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before, path


@contextlib.contextmanager
def _backend(name: str | None) -> Iterator[None]:
    import torch

    if name is None:
        yield
        return
    original = torch.compile

    def compiled(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "backend": name})

    torch.compile = compiled
    try:
        yield
    finally:
        torch.compile = original
