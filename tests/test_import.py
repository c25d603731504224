"""The door is quick: importing torchard or asking for help loads nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

import torchard.cli
from torchard.cli.verbs import verbs

HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "matplotlib", "onnx", "PIL")
CLI = Path(torchard.cli.__file__).parent


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``; what that prints goes to stderr."""
    script = f"import contextlib, sys\nwith contextlib.redirect_stdout(sys.stderr):\n {code}\n"
    script += f"print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def verb_modules(folder: Path = CLI, package: str = "torchard.cli") -> list[str]:
    modules = []
    for verb in verbs(folder, package).values():
        modules += [verb.module] if verb.folder is None else verb_modules(verb.folder, verb.module)
    return modules


def test_the_check_itself_sees_numpy():
    assert loaded_after("import numpy") == {"numpy"}


@pytest.mark.parametrize(
    "code",
    [
        "import torchard",
        "from torchard.cli import main; main(['--help'])",
        "from torchard.cli import main; main(['--version'])",
        "from torchard.cli import main; main(['methods', '--json'])",
    ],
)
def test_the_door_loads_nothing_heavy(code):
    assert loaded_after(code) == set()


def test_no_file_of_a_verb_loads_anything_heavy():
    names = verb_modules()
    assert "torchard.cli.methods" in names
    assert loaded_after(f"import {', '.join(names)}") == set()
