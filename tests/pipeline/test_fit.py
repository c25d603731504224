"""The main job on a user's folder: every stage's result is there, true, and survives whatever happens."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.pipeline.small_task import write_digits, write_model
from torchard import hub
from torchard.core.budget import count_params, parse_macs
from torchard.core.checkpoint import load_tensors
from torchard.core.errors import UsageError
from torchard.core.run import RunFolder
from torchard.pipeline import Settings, fit
from torchard.pipeline.export_run import built, export_run

# What steers a terminal, a template, a browser or a table; the rest of the class names is plain.
HOSTILE = "-<b onclick=x>[red]{{7*7}}\n'\"\u202e\U0001f600"
FILES = ("rank", "tune", "prune", "export", "test", "report", "timing", "data", "torchard")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("fit")
    digits = write_digits(root / "digits")
    (digits / "digit 2").rename(digits / HOSTILE)
    return digits, write_model(root / "model"), root


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


def test_the_standalone_script_names_the_classes_as_they_are(finished, places):
    _, run, _ = finished
    image = places[0] / HOSTILE / "003.png"
    script = subprocess.run(
        [sys.executable, "-I", run / "predict.py", "--json", "--", image],
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(script.stdout)["images"]
    assert {guess["label"] for guess in row["predictions"]} == {"digit 0", "digit 1", HOSTILE}


def test_a_hostile_name_is_text_in_the_report(finished):
    page = (finished[1] / "report.html").read_text(encoding="utf-8")
    assert "&lt;b onclick=x&gt;[red]{{7*7}}" in page
    assert "<b onclick" not in page


def test_other_commands_can_open_the_run_wherever_its_model_came_from(finished):
    facts, run, _ = finished
    tuned, pruned = (hub.load(str(run)), built(run))
    assert count_params(tuned) == facts["models"][0]["params"]
    assert (pruned.stage, count_params(pruned.model)) == ("pruned", facts["models"][1]["params"])


def test_exporting_again_keeps_the_comparison_that_the_report_shows(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    before = read(run, "export")
    told = export_run(run)
    macs = [row["macs"] for row in finished[0]["models"]]
    assert [told[name]["macs"] for name in ("before", "after")] == macs
    after = read(run, "export")
    assert (after["tuned"], after["speedup"]) == (before["tuned"], before["speedup"])
    assert after["onnx"]["latency_ms"] == before["onnx"]["latency_ms"]
    assert after["eager"]["bytes"] > 0


def test_a_finished_run_is_only_read(finished, settings):
    facts, run, _ = finished
    before = (run / "tuned.safetensors").stat().st_mtime_ns
    assert fit(settings, run)["models"] == facts["models"]
    assert (run / "tuned.safetensors").stat().st_mtime_ns == before


def test_another_run_s_folder_is_refused(finished, places):
    other = Settings(str(places[0]), seconds=60.0, models=str(places[1]))
    with pytest.raises(UsageError, match="holds a run with"):
        fit(other, finished[1])


def test_settings_given_otherwise_are_told_as_they_were_typed(finished, places):
    other = Settings(str(places[0]), seconds=600.0, models=str(places[1]), macs=parse_macs("0.5x"))
    with pytest.raises(UsageError, match=r'targets=\{"macs": "0.6x"\}, not \{"macs": "0.5x"\}; choose'):
        fit(other, finished[1])


REFUSED = {
    "models": ({"models": "no_such_*"}, "No model that is installed matches"),
    "data": ({"data": "no_such_data"}, "does not exist"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_misspelt_leaves_no_folder_that_stands_in_the_way(places, tmp_path, wrong):
    values, message = REFUSED[wrong]
    settings = Settings(**{"data": str(places[0]), "models": str(places[1]), **values})
    with pytest.raises(UsageError, match=message):
        fit(settings, tmp_path / "runs" / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_used_is_refused_before_the_data_are_read(places, tmp_path, monkeypatch):
    def read(spec: str, **options: object) -> None:
        raise AssertionError("the data were read")

    # By the module table: `torchard.pipeline.fit` is the function.
    monkeypatch.setattr(sys.modules["torchard.pipeline.fit"], "load_task", read)
    settings = Settings(str(places[0]), models=str(places[1]))
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="no torchard run"):
        fit(settings, tmp_path)
    RunFolder.open(tmp_path / "run", {**settings.to_json(), "seed": 7}).close()
    with pytest.raises(UsageError, match="holds a run with seed=7, not 0"):
        fit(settings, tmp_path / "run")


def test_several_processes_of_a_launcher_are_told_in_a_line_what_to_do(places, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and `accelerate launch` set it
    with pytest.raises(UsageError, match=r"launched in 2 processes.*Start it without a launcher"):
        fit(Settings(str(places[0]), models=str(places[1])), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_target_out_of_reach_keeps_the_nearest_model_and_says_so(places, tmp_path):
    impossible = Settings(str(places[0]), seconds=2.0, models=str(places[1]), macs=parse_macs("0.0001x"))
    facts = fit(impossible, tmp_path / "run")
    assert not facts["reached"]
    assert facts["models"][1]["macs"] < facts["models"][0]["macs"]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
RUN = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from torchard.core.budget import parse_macs
from torchard.pipeline import Settings, fit
fit(Settings(sys.argv[1], seconds=600.0, models=sys.argv[2], macs=parse_macs("0.6x")), Path(sys.argv[3]))
"""


def command(places, run: Path) -> list[str]:
    return [sys.executable, "-c", RUN, str(places[0]), str(places[1]), str(run)]


def run_to_the_end(places, run: Path) -> None:
    ended = subprocess.run(command(places, run), env=ONE_THREAD, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def run_and_stop(places, run: Path, sign: str, how: signal.Signals, delay: float) -> None:
    """Send the run a signal soon after the file ``sign`` appears in its folder."""
    with subprocess.Popen(command(places, run), env=ONE_THREAD, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (run / sign).exists():
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(how)


@pytest.mark.slow
def test_a_run_stopped_in_every_stage_ends_like_an_uninterrupted_one(places, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(places, whole)
    # Soon after each of these appears, so in tuning, pruning, recovery and export; a scheduler's SIGTERM and
    # Ctrl-C among the kills.
    chance = random.Random(0)
    stops = (
        ("rank.json", signal.SIGKILL),
        ("trial-ssf.json", signal.SIGINT),
        ("tune.json", signal.SIGKILL),
        ("recovery-plan.json", signal.SIGTERM),
        ("prune.json", signal.SIGKILL),
    )
    for sign, how in stops:
        run_and_stop(places, killed, sign, how, delay=0.3 * chance.random())
    run_to_the_end(places, killed)
    assert read(killed, "test") == read(whole, "test")
    for name in ("tuned.safetensors", "pruned.safetensors"):
        one, other = (load_tensors(run / name)[0] for run in (whole, killed))
        assert all(torch.equal(one[key], other[key]) for key in one)
