"""Which way of tuning is taken, and what is said of it."""

import dataclasses
import importlib
from typing import Any
from unittest.mock import Mock

import pytest
import timm

from torchard.core.data import InputSpec, load_task
from torchard.pipeline.fit import opened
from torchard.pipeline.job import Job
from torchard.pipeline.planning import SMALLEST, Pace, Plan, phase_sizes
from torchard.pipeline.settings import Settings
from torchard.pipeline.training import optimizer, train
from torchard.pipeline.tune import Way, choice_notes, choose, choose_way, freeze_lower, tune, ways


@pytest.fixture(scope="module")
def task():
    return dataclasses.replace(load_task("digits"), metric="accuracy")


def found(accuracy: float, nll: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "nll": nll}


def test_a_clearly_better_metric_wins_whatever_the_likelihood(task):
    validations = {"probe": found(0.99, 3.0), "full": found(0.5, 0.1)}
    assert choose(validations, task) == "probe"
    assert choice_notes(validations, "probe", task) == []


def test_near_equals_are_told_apart_by_likelihood_and_it_is_said(task):
    validations = {"probe": found(0.901, 0.5), "full": found(0.900, 0.3)}
    assert choose(validations, task) == "full"
    (note,) = choice_notes(validations, "full", task)
    assert "probe" in note
    assert "90.1%" in note


def test_a_metric_is_clearly_better_by_more_than_two_standard_errors(task):
    error = (0.8 * 0.2 / len(task.validation)) ** 0.5
    for errors, chosen in ((1.9, "full"), (2.1, "probe")):
        validations = {"probe": found(0.8, 0.5), "full": found(0.8 - errors * error, 0.3)}
        assert choose(validations, task) == chosen


@pytest.mark.parametrize(
    ("quick", "chosen"),
    [
        (found(0.76, 0.49), "quick"),  # alike, and quicker
        (found(0.76, 0.60), "slow"),  # clearly less likely
        (found(0.50, 0.49), "slow"),  # clearly less accurate
    ],
)
def test_of_ways_that_trials_cannot_tell_apart_the_quickest_is_taken(task, quick, chosen):
    trials = {
        "slow": {"validation": found(0.77, 0.48), "steps": 40},
        "quick": {"validation": quick, "steps": 60},
    }
    assert choose_way(trials, task) == chosen


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "vit_tiny_patch16_224"])
def test_the_lower_layers_are_frozen_and_the_classifier_is_not(name):
    model = timm.create_model(name)
    freeze_lower(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert flags == sorted(flags)  # frozen ones first
    assert not flags[0]
    assert flags[-1]


def test_tune_mode_is_tried_where_convolutions_feed_batch_norms():
    offered = {
        name: [way.name for way in ways(timm.create_model(name))]
        for name in ("resnet18", "vit_tiny_patch16_224")
    }
    assert offered["resnet18"] == ["SSF", "upper layers", "Tune mode", "full fine-tuning"]
    assert offered["vit_tiny_patch16_224"] == ["SSF", "upper layers", "full fine-tuning"]


def test_every_way_trains_what_it_says_and_leaves_an_ordinary_model(task):
    few = dataclasses.replace(task, train=task.train.subset(range(32)))
    before = timm.create_model("resnet18", num_classes=10).state_dict()
    statistics = [name for name in before if name.endswith("running_mean")]
    for way in ways(timm.create_model("resnet18")):
        model = timm.create_model("resnet18", num_classes=10).eval()
        model.load_state_dict(before)
        way.attach(model)
        spec = InputSpec((32, 32))
        train(
            model,
            few,
            spec,
            Plan(2, (32,), "no", batch_size=16),
            optimizer=optimizer(model, way.learning_rate, way.weight_decay),
            callbacks=way.callbacks(),
            evaluate=False,
        )
        way.finish(model)
        after = model.state_dict()
        assert after.keys() == before.keys(), way.name
        assert not after["fc.weight"].equal(before["fc.weight"]), way.name
        held = all(after[name].equal(before[name]) for name in statistics)
        assert held == (way.name == "Tune mode") or way.name == "SSF", way.name
        assert all(parameter.requires_grad for parameter in model.parameters()), way.name


@pytest.mark.parametrize(
    ("seconds", "sizes"), [(1.0, (SMALLEST,)), (1e6, phase_sizes(224))], ids=["no time", "any time"]
)
def test_the_input_size_is_what_the_time_trains(task, monkeypatch, seconds, sizes):
    stage = importlib.import_module("torchard.pipeline.tune")  # the package's name is the function's
    monkeypatch.setattr(stage, "_fresh", lambda job, name: None)
    monkeypatch.setattr(stage, "measure_pace", lambda model, size: Pace(size, "no", 0.01))
    job = Mock(spec=Job, task=task, run=Mock(cached=lambda name, key, compute: compute()))
    way = Way("any", 1e-3)
    assert stage._sizes(job, "any", way, InputSpec((224, 224)), seconds, reason="trials") == sizes


def test_the_probe_reads_images_of_the_size_that_training_can_afford(tmp_path, monkeypatch):
    """Else the cut model, which needs training whatever won, would have to be trained at a size too large."""
    stage = importlib.import_module("torchard.pipeline.tune")
    monkeypatch.setattr(stage, "largest_size", lambda task, spec: 96)
    monkeypatch.setattr(stage, "affordable_sizes", lambda pace, images, seconds, *, largest: (64,))
    monkeypatch.setattr(stage, "measure_pace", lambda model, size: Pace(size, "no", 0.01))
    read, probed = [], stage._probed
    monkeypatch.setattr(
        stage, "_probed", lambda job, name, spec: read.append(spec) or probed(job, name, spec)
    )
    settings = Settings("digits", seconds=3.0, models="mobilenetv2_100")
    with opened(settings, tmp_path) as job:
        few, some = job.task.train.subset(range(64)), job.task.validation.subset(range(32))
        job.task = dataclasses.replace(job.task, train=few, validation=some)
        facts = tune(job, {"chosen": "mobilenetv2_100"}).facts
    assert [spec.size for spec in read] == [(64, 64)]
    assert facts["input"]["size"] == [64, 64]
