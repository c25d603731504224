"""core.provenance: facts about this very machine, fit for JSON."""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from torchard.core import provenance


@pytest.mark.parametrize(
    ("module", "program", "told"),
    [
        (None, "/somewhere/bin/torchard", "torchard fit x"),
        ("torchard.__main__", "/somewhere/torchard/__main__.py", "torchard fit x"),
        ("experiments.tune.ssf", "/somewhere/ssf.py", "python -m experiments.tune.ssf fit x"),
        (None, "/somewhere/mine.py", "python mine.py fit x"),
        (None, "-c", "python -c fit x"),
    ],
)
def test_the_command_is_what_was_typed(monkeypatch, module, program, told):
    main = SimpleNamespace(__spec__=module and SimpleNamespace(name=module))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", [program, "fit", "x"])
    assert " ".join(provenance.command()) == told


def test_the_machine_is_told_in_json_values():
    told = provenance.machine()
    assert json.loads(json.dumps(told)) == told
    assert told["threads"] == torch.get_num_threads()
    assert told["cores"] >= 1
    assert platform.system() in told["system"]


def test_without_cpuinfo_the_processor_still_has_a_name(monkeypatch):
    def refuse(self: Path, **options: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert provenance.machine()["processor"] == (platform.processor() or platform.machine())


def test_versions_are_those_installed():
    assert provenance.versions(["numpy"]) == {
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
    }
