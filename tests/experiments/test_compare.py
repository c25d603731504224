"""Comparisons are fair: same seeds, equal trials, chosen on validation and never on test."""

import json
import random

import numpy as np
import pytest
import torch

from experiments import record
from experiments.compare import compare, grid


def steady(subject, *, seed, gain=0.0):
    return {"validation": subject + seed + gain, "test": 10 * (subject + seed) - gain}


def worse(subject, *, seed, gain=0.0):
    return {"validation": subject - 1 + gain, "test": float(seed)}


ARMS = {"steady": steady, "worse": worse}


def test_each_arm_runs_on_each_seed():
    comparison = compare(ARMS, 1.0, seeds=[0, 2])
    assert [(run.arm, run.seed) for run in comparison.runs] == [
        ("steady", 0),
        ("worse", 0),
        ("steady", 2),
        ("worse", 2),
    ]
    assert comparison.values("steady", "test") == [10.0, 30.0]


def test_a_row_holds_mean_and_sample_standard_deviation():
    row = compare(ARMS, 1.0, seeds=range(3)).rows()[0]
    assert row["arm"] == "steady"
    assert (row["validation"], row["validation sd"]) == (2.0, 1.0)
    assert (row["test"], row["test sd"]) == (20.0, 10.0)
    assert row["seconds"] >= 0


def test_one_seed_has_no_spread():
    assert compare(ARMS, 1.0, seeds=[0]).rows()[0]["test sd"] is None


def test_paired_differences_are_taken_seed_by_seed():
    assert compare(ARMS, 0.0, seeds=range(3)).paired("steady", "worse", "test") == (9.0, 9.0)


@pytest.mark.parametrize(("lower_is_better", "chosen"), [(False, 2.0), (True, -3.0)])
def test_the_setting_is_chosen_on_validation_only(lower_is_better, chosen):
    settings = {name: grid(gain=[0.0, 2.0, -3.0]) for name in ARMS}
    comparison = compare(ARMS, 0.0, seeds=[1], settings=settings, lower_is_better=lower_is_better)
    assert [run.setting for run in comparison.runs] == [{"gain": chosen}] * 2
    assert comparison.values("steady", "test") == [10 - chosen]


def test_grid_is_every_combination():
    assert grid(a=[1, 2], b=["x"]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"steady": grid(gain=[1.0, 2.0])}}, "'steady': 2, 'worse': 1"),
        ({"settings": {"steady": [], "worse": []}}, "'steady': 0"),
        ({"settings": {"study": [{}]}}, "study; there are: steady, worse"),
        ({"settings": {n: grid(gain=[1.0, 2.0]) for n in ARMS}, "select_on": "val"}, "not `select_on='val'`"),
        ({"seeds": []}, "`seeds` is empty"),
    ],
)
def test_unfair_comparisons_are_refused(options, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is compared below)
        compare(ARMS, 0.0, **{"seeds": [0], **options})
    assert said in str(caught.value)


def test_arms_must_return_the_same_figures():
    with pytest.raises(ValueError, match="arm 'odd' returned"):
        compare({**ARMS, "odd": lambda subject, seed: {"validation": 1.0}}, 0.0, seeds=[0])


def test_every_trial_starts_from_its_seed():
    def draw(subject, *, seed):
        return {"validation": torch.rand(()).item() + random.random() + np.random.rand()}  # noqa: NPY002

    first, second = compare({"a": draw, "b": draw}, None, seeds=[5]).runs
    assert first.figures == second.figures


def test_what_is_saved_can_be_measured_again(tmp_path, capsys):
    path = compare(ARMS, 1.0, seeds=range(3)).save(
        tmp_path / "deep" / "made_up.json", claim="steady wins", verdict="it does", paper={"steady": 21.0}
    )
    saved = json.loads(path.read_text())
    assert saved["table"]["columns"] == ["arm", "validation", "test", "paper", "seconds"]
    assert saved["table"]["rows"][0][:4] == ["steady", "2.000 ± 1.000", "20.000 ± 10.000", "21.000"]
    assert saved["table"]["rows"][1][3] == "-"
    assert saved["rows"][0]["test"] == 20.0
    assert saved["details"]["seeds"] == [0, 1, 2]
    assert [run["figures"]["test"] for run in saved["details"]["runs"] if run["arm"] == "worse"] == [0, 1, 2]
    assert saved["measured"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert saved["measured"]["machine"]["cores"] >= 1
    assert (saved["claim"], saved["verdict"]) == ("steady wins", "it does")
    out = capsys.readouterr().out
    assert "20.000 ± 10.000" in out
    assert "it does" in out


def test_relative_paths_are_below_the_repository():
    assert (record.ROOT / "pyproject.toml").exists()


def test_a_trial_that_diverged_has_lost():
    def fragile(subject, *, seed, gain):
        return {"validation": gain if gain < 2 else float("nan")}

    run = compare({"a": fragile}, None, seeds=[0], settings={"a": grid(gain=[3.0, 1.0])}).runs[0]
    assert run.setting == {"gain": 1.0}


def test_an_arm_that_always_diverged_is_an_error():
    with pytest.raises(ValueError, match="arm 'a' gave no finite figures on seed 4"):
        compare({"a": lambda subject, seed: {"test": float("nan")}}, None, seeds=[4])
