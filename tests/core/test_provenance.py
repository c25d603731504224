"""core.provenance: facts about this very machine, fit for JSON."""

import json
import platform
from importlib import metadata
from pathlib import Path

import torch

from torchard.core import provenance


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
