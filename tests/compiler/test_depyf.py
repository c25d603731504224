"""A sample of the standard library through the decompiler, here and on the other interpreters that are
present."""

import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from tests.compiler import corpus
from tests.conftest import ROOT
from tests.contracts.cases import ToolCase
from torchard.compiler import depyf
from torchard.compiler.decompile.verify.equivalence import interface_difference


def test_a_sample_of_the_standard_library_is_proved():
    sample = list(corpus.functions())[::60]
    counts: Counter[str] = Counter()
    for _, code in sample:
        found = depyf.decompile_code(code)
        twin = depyf.recompile(found.source, code)
        assert interface_difference(code, twin) is None
        counts[found.equivalence] += 1
        counts[found.strategy] += 1
    assert len(sample) > 200
    assert counts["unverified"] <= 0.005 * len(sample) + 1
    assert counts["structured"] >= 0.99 * len(sample) - 1


def interpreters() -> list[str]:
    """Other Pythons that the decompiler supports: named in TORCHARD_PYTHONS, or found on the PATH."""
    named = os.environ.get("TORCHARD_PYTHONS", "")
    found = named.split(os.pathsep) if named else [f"python3.{minor}" for minor in (9, 10, 12, 13, 14)]
    here = f"python3.{sys.version_info.minor}"
    return [name for name in found if name and name != here]


@pytest.mark.parametrize("name", interpreters())
def test_another_interpreter_decompiles_its_own_library(name):
    import shutil

    program = shutil.which(name)
    if program is None or subprocess.run([program, "--version"], capture_output=True).returncode:
        pytest.skip(f"{name} is not installed here")
    done = subprocess.run(
        [program, "-E", str(ROOT / "tests/compiler/elsewhere.py"), "200"],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_public_names_are_there():
    for name in depyf.__all__:
        assert getattr(depyf, name) is not None


def contract_case() -> ToolCase:
    """The decompiled source of a function of the standard library."""
    return ToolCase(run=lambda: depyf.decompile(textwrap.indent))
