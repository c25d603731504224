"""``torchard fit`` and ``tune`` as they are typed: what is passed on, what is shown, which exit code."""

import json
import sys
from pathlib import Path

import pytest

from torchard.cli import main
from torchard.cli.fit import default_folder
from torchard.cli.tune import show as show_tuning
from torchard.core.errors import UsageError
from torchard.pipeline import Settings
from torchard.pipeline.job import SHARES

ROW = {"accuracy": 0.9, "bytes": 8_900_000, "latency_ms": 4.3, "macs": 299_000_000, "params": 2_230_000}
FACTS = {
    "data": "cells",
    "model": "mobilenetv2_100",
    "tuned_by": "upper layers",
    "metric": "balanced_accuracy",
    "classes": 2,
    "test_images": 656,
    "models": [
        {**ROW, "name": "tuned", "test": 0.8752},
        {**ROW, "name": "pruned", "test": 0.8521, "macs": 149_000_000, "params": 990_000},
    ],
    "targets": {"macs": "0.5x", "params": "2.5M"},
    "reached": True,
    "speedup": 1.5,
    "seconds": 670.2,
    "budget_seconds": 660.0,
    "in_time": True,
    "notes": ["The images are much smaller than the model's input."],
    "report": "runs/cells/report.html",
    "run": "runs/cells",
}


@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    """Run ``torchard fit ARGUMENTS`` on a pipeline that only answers; return (code, out, err, its calls)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    calls: list[tuple[Settings, Path]] = []

    def run(*arguments: str, **changed: object):
        def fit(settings: Settings, out: Path, **options: object) -> dict:
            calls.append((settings, out))
            return FACTS | changed

        monkeypatch.setattr(sys.modules["torchard.pipeline"], "fit", fit)
        code = main(["fit", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, calls

    return run


def test_what_is_typed_reaches_the_pipeline(typed):
    line = "cells --time 1h30m --macs 120M --latency 8ms --params 0.25x --metric auroc --models *lite*"
    _, _, _, [(settings, out)] = typed(*line.split(), "--seed", "3", "--strict", "--out", "here")
    assert settings.to_json() == {
        "data": "cells",
        "seconds": 5400.0,
        "targets": {"macs": "120M", "latency": "8ms", "params": "0.25x"},
        "metric": "auroc",
        "models": "*lite*",
        "seed": 3,
        "strict": True,
    }
    assert out == Path("here")


def test_the_table_the_verdict_and_what_to_do_next_fit_eighty_columns(typed):
    code, out, _, _ = typed("cells")
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if line.startswith(("tuned", "pruned"))] == [
        ["tuned", "87.5", "2.23", "299", "8.9", "4.30"],
        ["pruned", "85.2", "0.99", "149", "8.9", "4.30"],
    ]
    assert lines[-5:] == [
        "Target macs 0.5x, params 2.5M: reached. 656 test images.",
        "Time: 670 s of 660 s.",
        "Note: The images are much smaller than the model's input.",
        "Report: runs/cells/report.html",
        "Next: torchard predict runs/cells IMAGE   or   torchard serve runs/cells",
    ]


def test_json_holds_the_same_facts(typed):
    code, out, _, _ = typed("cells", "--json")
    assert (code, json.loads(out)) == (0, FACTS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reached": False}, "out of reach; this is the nearest"),
        ({"in_time": False}, "too little for this data"),
    ],
    ids=["target", "time"],
)
def test_what_could_not_be_kept_is_said_and_exit_code_3(typed, changed, said):
    code, out, _, _ = typed("cells", **changed)
    assert code == 3
    assert said in out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--time", value) for value in ("10", "10h5", "0s", "-5m", "0.5s", "")),
        *(("--macs", value) for value in ("0x", "10", "-1M", "0.5", "nanx")),
        *(("--latency", value) for value in ("8", "0ms", "8 parsecs")),
        *(("--params", value) for value in ("two", "0M")),
        ("--metric", "sharpness"),
        ("--seed", "-1"),
        ("--seed", "one"),
    ],
)
def test_wrong_values_are_one_line_and_exit_code_2_before_anything_runs(typed, tmp_path, option, value):
    code, out, err, calls = typed("cells", f"{option}={value}")
    assert (code, out, calls) == (2, "", [])
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "folder"),
    [("elpv", "elpv"), ("elpv:mono", "elpv-mono"), ("/data/my cells/", "my-cells"), ("..", "run")],
)
def test_the_folder_is_named_after_the_data(data, folder):
    assert default_folder(data) == Path("runs") / folder


def test_tuning_has_a_folder_of_its_own_and_the_time_for_itself(monkeypatch, tmp_path):
    seen = []

    def opened(settings: Settings, out: Path, **options: object) -> None:
        seen.append((settings.seconds, out))
        raise UsageError("seen")

    monkeypatch.setattr(sys.modules["torchard.pipeline.fit"], "opened", opened)
    time = f"{100 * SHARES['tune']:g}s"
    assert main(["tune", "my cells", "--time", time]) == 2
    assert main(["tune", "my cells", "--time", time, "--out", "here"]) == 2
    assert seen == [(100.0, Path("runs/my-cells-tuned")), (100.0, Path("here"))]


def test_tuning_shows_every_candidate_and_what_to_do_next(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {
            "name": name,
            "validation": {"accuracy": score},
            "trained_params": 2562,
            "seconds": 31,
            "chosen": chosen,
        }
        for name, score, chosen in (("linear probe", 0.81, False), ("SSF", 0.86, True))
    ]
    facts = {"model": "net", "metric": "accuracy", "candidates": rows, "chosen": "SSF", "run": "runs/cells"}
    show_tuning(facts | {"notes": ["Near."]})
    lines = capsys.readouterr().out.splitlines()
    assert [lines[-5].split()[-1], lines[-4].split()[-1]] == ["no", "yes"]
    assert lines[-3:] == [
        "Note: Near.",
        "Chosen: SSF. Weights: runs/cells/tuned.safetensors",
        "Next: torchard prune runs/cells   or   torchard export runs/cells",
    ]
