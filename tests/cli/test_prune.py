"""torchard prune: the lines it prints and the codes it returns."""

import json

import pytest

from tests.pipeline.small_task import write_digits, write_model
from torchard.cli import main
from torchard.core.files import write_json
from torchard.pipeline import Settings

FACTORY = """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return model, torch.zeros(1, 6)

def wrong():
    return 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_factory_of_ones_own_is_cut_and_written(here, capsys):
    assert main(["prune", "networks_of_mine:build", "--ratio", "0.5", "--out", "out"]) == 0
    lines = capsys.readouterr().out
    assert "0.weight" in lines
    assert "Weights: out/pruned.safetensors" in lines
    assert sorted(path.name for path in (here / "out").iterdir()) == ["prune.json", "pruned.safetensors"]


def test_json_holds_the_same_facts(here, capsys):
    assert main(["prune", "networks_of_mine:build", "--macs", "0.5x", "--out", "out", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["groups"] == [{"name": "0.weight", "before": 16, "after": 8}]
    assert facts["reached"] is True
    assert facts["after"]["macs"] == 8 * 9


def test_a_ranking_can_weigh_by_what_is_saved(here, capsys):
    arguments = ["networks_of_mine:build", "--macs", "0.5x", "--scope", "global", "--per", "macs"]
    assert main(["prune", *arguments, "--out", "out", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["after"]["macs"] <= 0.5 * facts["before"]["macs"]


def test_a_target_out_of_reach_keeps_the_nearest_and_says_so(here, capsys):
    assert main(["prune", "networks_of_mine:build", "--macs", "0.01x", "--out", "out"]) == 3
    assert "out of reach" in capsys.readouterr().out
    assert (here / "out" / "pruned.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["networks_of_mine:build", "--macs", "10"], "not a limit"),
        (["networks_of_mine:build", "--ratio", "1.5"], "--ratio 1.5"),
        (["networks_of_mine:build", "--ratio", "0.5", "--macs", "0.5x"], "either --ratio or targets"),
        (["networks_of_mine:build", "--criterion", "taylor"], "--criterion"),
        (["networks_of_mine:build", "--scope", "galactic"], "--scope"),
        (["networks_of_mine:build", "--per", "macs"], "--scope global or isomorphic"),
        (["networks_of_mine:build", "--scope", "global", "--per", "latency"], "--per 'latency' is not known"),
        (["networks_of_mine:missing"], "cannot be imported"),
        (["networks_of_mine:wrong"], "must return a model and an example input"),
        (["missing.safetensors"], "no file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_and_code_two(here, capsys, arguments, said):
    assert main(["prune", *arguments, "--out", "out"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (here / "out").exists()


def test_a_tuned_run_is_pruned_and_trained_in_its_folder(tmp_path, capsys):
    digits, model, run = write_digits(tmp_path / "digits"), write_model(tmp_path / "model"), tmp_path / "run"
    assert main(["tune", str(digits), "--model", str(model), "--time", "6s", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["prune", str(run), "--macs", "0.7x"]) == 0
    said = capsys.readouterr()
    assert "validation" in said.out
    assert f"Next: torchard export {run}" in said.out
    assert (run / "pruned.safetensors").is_file()
    assert main(["prune", str(run), "--macs", "0.7x", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["after"]["macs"] <= 0.7 * facts["before"]["macs"]


def test_ways_to_cut_are_refused_for_a_run_and_a_run_without_a_model_too(tmp_path, capsys):
    write_json(tmp_path / "torchard.json", {"format": 1, **Settings("digits").to_json()})
    assert main(["prune", str(tmp_path), "--criterion", "l1"]) == 2
    assert "--criterion is for --out" in capsys.readouterr().err
    assert main(["prune", str(tmp_path)]) == 2
    assert "holds no tuned model" in capsys.readouterr().err
