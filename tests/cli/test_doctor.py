"""``torchard doctor`` tells what is there and what is not, from the installed metadata."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest

from torchard.cli import doctor, main

METADATA = [
    "torch>=2.10",
    "rich<15,>=13.7",
    'never-there; sys_platform == "win31"',
    'ghost>=1; extra == "serve"',
    'torch>=2; extra == "serve"',
]
VERSIONS = {"torch": "2.14.1", "rich": "15.0", "torchard": "0.1.0"}


@pytest.fixture
def installed(monkeypatch):
    def version(name: str) -> str:
        if name not in VERSIONS:
            raise metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    fake = SimpleNamespace(
        version=version,
        requires=lambda name: METADATA,
        metadata=lambda name: SimpleNamespace(get_all=lambda field: ["serve"]),
        PackageNotFoundError=metadata.PackageNotFoundError,
    )
    monkeypatch.setattr(doctor, "metadata", fake)  # libraries that load meanwhile keep the real one


def facts(capsys) -> tuple[int, dict]:
    code = main(["doctor", "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, json.loads(captured.out)


def test_what_is_missing_or_does_not_fit_is_told_with_the_way_to_get_it(installed, capsys):
    code, told = facts(capsys)
    assert code == 1
    assert told["packages"] == [
        {"package": "torch", "version": "2.14.1", "needs": ">=2.10", "fits": True},
        {"package": "rich", "version": "15.0", "needs": "<15,>=13.7", "fits": False},
    ]
    assert told["extras"] == [
        {"extra": "serve", "missing": ["ghost"], "install": "pip install 'torchard[serve]'"}
    ]


def test_this_environment_is_whole(capsys):
    code, told = facts(capsys)
    assert code == 0
    assert {"torch", "timm", "onnx"} <= {row["package"] for row in told["packages"]}
    assert {"demo", "serve", "dev"} <= {row["extra"] for row in told["extras"]}
    assert told["threads"] >= 1
    assert "tf_efficientnet_lite0" in {row["model"] for row in told["weights"]}


def test_a_person_sees_the_same(installed, capsys):
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    for word in ("rich", "15.0", "<15,>=13.7", "ghost", "pip install 'torchard[serve]'", "mobilenetv2_100"):
        assert word in out
