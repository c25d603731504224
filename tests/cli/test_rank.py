"""``torchard rank`` prints a table, a chart, a verdict and the next command."""

import importlib
import json

import pytest
import timm
import torch

from torchard.cli import main
from torchard.cli.rank import chart
from torchard.core.data import InputSpec
from torchard.hub import folder


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Two tiny networks in folders, standing in for the hub."""
    names = []
    for seed in range(2):
        torch.manual_seed(seed)
        path = tmp_path / f"net{seed}"
        folder.save(path, timm.create_model("test_resnet"), name="test_resnet", input=InputSpec((32, 32)))
        names.append(path.name)
    # the package hands on a function of the module's name, so the module is asked for by import
    stage = importlib.import_module("torchard.pipeline.rank")
    monkeypatch.setattr(stage, "available", lambda pattern: names)
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["rank", "digits", "--samples", "60", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table_chart_verdict_next(networks, capsys):
    code, out, err = run(capsys)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["model", "logme", "gap", "knn", "params", "[M]", "MACs", "[M]", "time", "[s]"]
    assert " ± " in lines[1]
    assert sum("●" in line for line in lines) == 2
    assert "60 images looked at." in " ".join(lines)
    assert lines[-1].startswith("Next: torchard tune digits --model ")
    assert err.count("Looking with") == 2


def test_json_holds_the_same_facts_and_other_scorers(networks, capsys):
    code, out, _ = run(capsys, "--json", "--scorer", "knn,h_score")
    facts = json.loads(out)
    assert code == 0
    assert facts["scorer"] == "knn"
    assert {"score", "error", "h_score", "gap", "params", "macs"} <= set(facts["rows"][0])
    assert facts["chosen"] in [row["model"] for row in facts["rows"]]


def test_features_are_kept_in_the_cache_folder(networks, capsys, tmp_path):
    run(capsys, "--cache", str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scorer", "beauty"),
        ("--scorer", "etran"),
        ("--models", "nonsense"),
        ("--samples", "-4"),
        ("--samples", "1"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line_and_code_2(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1


def test_the_chart_is_to_scale():
    rows = [
        {"model": "far", "score": 1.0, "error": 0.0},
        {"model": "near", "score": 0.0, "error": 0.25},
        {"model": "none", "score": None, "error": None},
    ]
    far, near = chart(rows)
    assert far == "far " + " " * 31 + "●"
    assert near == "near  " + "─" * 10 + "●" + "─" * 9
    assert chart(rows[:1]) == ["far  " + " " * 15 + "●"]


def test_an_unknown_engine_is_refused_in_one_line(networks, capsys):
    code, _, err = run(capsys, "--engine", "abacus")
    assert code == 2
    assert "must be local or ray" in err


def test_models_that_fail_are_named(networks, capsys, tmp_path):
    (tmp_path / "net1" / "model.safetensors").write_bytes(b"damaged")
    code, out, _ = run(capsys)
    assert code == 0
    assert "Not ranked: net1: " in out
    assert "net0 is the only model" in out
