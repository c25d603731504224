"""A sample of the standard library through the decompiler, here and on the other interpreters that are
present."""

import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from tests.compiler import corpus, pythons
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


@pytest.mark.parametrize("minor", [minor for minor in pythons.MINORS if minor != sys.version_info.minor])
def test_another_interpreter_decompiles_its_own_library(minor):
    command = pythons.found(minor)
    if command is None:
        pytest.skip(f"Python 3.{minor} is not installed here")
    done = subprocess.run(command("400"), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pythons_that_are_missing_are_named_and_fail_nothing(monkeypatch, capfd):
    monkeypatch.setattr(pythons, "found", lambda minor: None)
    monkeypatch.setattr(pythons.shutil, "which", lambda name: None)
    assert pythons.main("400", install=True) == 0
    assert capfd.readouterr().out == "Pythons skipped, not installed: 3.9, 3.10, 3.11, 3.12, 3.13, 3.14\n"


def test_a_python_that_fails_is_named_and_fails_the_run(monkeypatch, capfd):
    monkeypatch.setattr(
        pythons, "found", lambda minor: lambda step: [sys.executable, "-c", f"raise SystemExit({minor} == 9)"]
    )
    assert pythons.main("400", install=False) == 1
    assert "Pythons failed: 3.9\n" in capfd.readouterr().out


def test_a_tool_that_cannot_set_up_says_so_in_a_line(capfd):
    pythons._try(sys.executable, "-c", "raise SystemExit('no network')")
    assert "could not: no network" in capfd.readouterr().out


def test_the_public_names_are_there():
    for name in depyf.__all__:
        assert getattr(depyf, name) is not None


def contract_case() -> ToolCase:
    """The decompiled source of a function of the standard library."""
    return ToolCase(run=lambda: depyf.decompile(textwrap.indent))
