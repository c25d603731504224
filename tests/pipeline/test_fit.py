"""The main job on a user's folder: every stage's result is there, true, and survives whatever happens."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.pipeline.small_task import write_digits, write_model
from torchard.core.budget import parse_macs
from torchard.core.checkpoint import load_tensors
from torchard.core.errors import UsageError
from torchard.pipeline import Settings, fit

FILES = ("rank", "tune", "prune", "export", "test", "report", "timing", "data", "torchard")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("fit")
    return write_digits(root / "digits"), write_model(root / "model"), root


@pytest.fixture(scope="module")
def settings(places):
    return Settings(str(places[0]), seconds=600.0, models=str(places[1]), macs=parse_macs("0.6x"))


@pytest.fixture(scope="module")
def finished(places, settings):
    said: list[str] = []
    facts = fit(settings, places[2] / "run", say=said.append)
    return facts, places[2] / "run", said


def read(run: Path, name: str) -> dict:
    return json.loads((run / f"{name}.json").read_text())


def test_every_stage_leaves_its_result(finished):
    _, run, _ = finished
    assert all((run / f"{name}.json").is_file() for name in FILES)
    made = ("model.onnx", "model.pt2", "report.html", "tuned.safetensors", "pruned.safetensors", "predict.py")
    assert all((run / name).stat().st_size > 0 for name in made)


def test_the_pruned_model_keeps_the_target_and_is_smaller(finished):
    facts, _, _ = finished
    tuned, pruned = facts["models"]
    assert facts["reached"]
    assert pruned["macs"] <= 0.6 * tuned["macs"]
    assert pruned["params"] < tuned["params"]
    assert pruned["bytes"] < tuned["bytes"]


def test_broken_files_are_named_and_left_out(finished):
    _, run, said = finished
    excluded = {entry["name"] for entry in read(run, "data")["excluded"]}
    assert excluded == {"digit 0/text.png", "digit 1/empty.jpg"}
    assert any("2 of 92" in line for line in said)


def test_exactly_one_candidate_is_chosen_and_its_validation_is_the_stage_s(finished):
    _, run, _ = finished
    tune = read(run, "tune")
    (chosen,) = [row for row in tune["candidates"] if row["chosen"]]
    assert chosen["name"] == tune["chosen"]
    assert chosen["validation"] == tune["validation"]


def test_the_confusions_count_every_test_image(finished):
    facts, run, _ = finished
    test = read(run, "test")
    assert sum(map(sum, test["pruned"]["confusion"])) == facts["test_images"]
    right = sum(test["pruned"]["confusion"][k][k] for k in range(3))
    assert test["pruned"]["accuracy"] == pytest.approx(right / facts["test_images"])


def test_mistakes_are_wrong_and_the_surest_come_first(finished):
    _, run, _ = finished
    mistakes = read(run, "test")["pruned"]["mistakes"]
    assert all(row["true"] != row["predicted"] for row in mistakes)
    confidences = [row["confidence"] for row in mistakes]
    assert confidences == sorted(confidences, reverse=True)


def test_the_standalone_script_answers_like_the_report(finished, places):
    _, run, _ = finished
    image = places[0] / "digit 2" / "003.png"
    script = subprocess.run(
        [sys.executable, "-I", run / "predict.py", image], capture_output=True, text=True, check=True
    )
    assert "digit" in script.stdout


def test_a_finished_run_is_only_read(finished, settings):
    facts, run, _ = finished
    before = (run / "tuned.safetensors").stat().st_mtime_ns
    assert fit(settings, run)["models"] == facts["models"]
    assert (run / "tuned.safetensors").stat().st_mtime_ns == before


def test_another_run_s_folder_is_refused(finished, places):
    other = Settings(str(places[0]), seconds=60.0, models=str(places[1]))
    with pytest.raises(UsageError, match="holds a run with"):
        fit(other, finished[1])


def test_a_target_out_of_reach_keeps_the_nearest_model_and_says_so(places, tmp_path):
    impossible = Settings(str(places[0]), seconds=2.0, models=str(places[1]), macs=parse_macs("0.0001x"))
    facts = fit(impossible, tmp_path / "run")
    assert not facts["reached"]
    assert facts["models"][1]["macs"] < facts["models"][0]["macs"]


RUN = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from torchard.core.budget import parse_macs
from torchard.pipeline import Settings, fit
fit(Settings(sys.argv[1], seconds=600.0, models=sys.argv[2], macs=parse_macs("0.6x")), Path(sys.argv[3]))
"""


def start(places, run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(places[0]), str(places[1]), str(run)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_like_an_uninterrupted_one(places, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(places, whole)
    assert process.wait() == 0, process.stderr.read().decode()
    # A kill soon after each of these appears: in ranking, tuning, pruning, recovery and export.
    chance = random.Random(0)
    for sign in ("torchard.json", "rank.json", "tune.json", "recovery-plan.json", "export.json"):
        process = start(places, killed)
        while process.poll() is None and not (killed / sign).exists():
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(places, killed)
    assert process.wait() == 0, process.stderr.read().decode()
    assert read(killed, "test") == read(whole, "test")
    for name in ("tuned.safetensors", "pruned.safetensors"):
        one, other = (load_tensors(run / name)[0] for run in (whole, killed))
        assert all(torch.equal(one[key], other[key]) for key in one)
