"""Run the decompiler's checks on every other Python that is here; say which are not.

Usage: python -m tests.compiler.pythons [STEP]. Looks on the PATH and among pyenv's versions. Exits 1 if one
fails.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MINORS = (9, 10, 11, 12, 13, 14)


def program(minor: int) -> str | None:
    """Return a Python 3.``minor`` that runs, or None."""
    candidates = [shutil.which(f"python3.{minor}")]
    candidates += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    return None


def main(step: str) -> int:
    failed = False
    for minor in MINORS:
        found = program(minor)
        if found is None:
            print(f"Python 3.{minor}: skipped, not installed")
            continue
        done = subprocess.run([found, "-E", str(ROOT / "tests/compiler/elsewhere.py"), step], cwd=ROOT)
        failed |= done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "20"))
