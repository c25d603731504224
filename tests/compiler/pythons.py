"""Run the decompiler's checks on every other Python that is here; say by name which are not.

Usage: python -m tests.compiler.pythons [STEP] [--install]. Looks on the PATH, among pyenv's versions, and for
Python 3.14 also in npm's pyodide under Node. ``--install`` first lets pyenv and npm set up those that are
missing; what they cannot set up is skipped, and named. Exits 1 only if a Python that is here fails.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MINORS = (9, 10, 11, 12, 13, 14)
NODE_MODULES = ROOT / ".venv" / "pythons"  # where npm puts pyodide
PYODIDE = {14: "pyodide@^314"}
Command = Callable[[str], list[str]]


def main(step: str, *, install: bool) -> int:
    tested, skipped, failed = [], [], []
    for minor in MINORS:
        command = found(minor)
        if command is None and install:
            set_up(minor)
            command = found(minor)
        if command is None:
            skipped.append(f"3.{minor}")
            continue
        done = subprocess.run(command(step), cwd=ROOT)
        (failed if done.returncode else tested).append(f"3.{minor}")
    for what, names in (("passed", tested), ("failed", failed), ("skipped, not installed", skipped)):
        if names:
            print(f"Pythons {what}: {', '.join(names)}")
    return int(bool(failed))


def found(minor: int) -> Command | None:
    """Return the command that checks Python 3.``minor`` with a given step; None if it is not here."""
    python = program(minor)
    if python is not None:
        return lambda step: [python, "-E", str(ROOT / "tests/compiler/elsewhere.py"), step]
    node = shutil.which("node")
    if minor in PYODIDE and node is not None and (NODE_MODULES / "node_modules" / "pyodide").is_dir():
        script = str(ROOT / "tests/compiler/pyodide.mjs")
        return lambda step: [node, "--no-warnings", script, str(NODE_MODULES), step]
    return None


def program(minor: int) -> str | None:
    """Return a Python 3.``minor`` that runs, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python3.{minor}")]
    candidates += [str(path) for path in sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"))]
    for candidate in filter(None, candidates):  # pyenv's own stand-ins are on the PATH, but may not run
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    return None


def set_up(minor: int) -> None:
    """Let pyenv build Python 3.``minor``, or npm fetch it as pyodide; what fails is told in a line."""
    if minor in PYODIDE and shutil.which("npm") and shutil.which("node"):
        quiet = ("--silent", "--no-audit", "--no-fund")
        _try("npm", "install", *quiet, "--prefix", str(NODE_MODULES), PYODIDE[minor])
    elif shutil.which("pyenv"):
        _try("pyenv", "install", "--skip-existing", f"3.{minor}")


def _try(*command: str) -> None:
    print(f"Setting up: {' '.join(command)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        print(f"  {command[0]} could not: {lines[-1] if lines else 'no reason given'}")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--install"]
    sys.exit(main(words[0] if words else "20", install="--install" in sys.argv))
