"""Which way of tuning is taken, and what is said of it."""

import dataclasses
from typing import Any

import pytest
import timm

from torchard.core.data import load_task
from torchard.pipeline.tune import choice_notes, choose, freeze_lower


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


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "vit_tiny_patch16_224"])
def test_the_lower_layers_are_frozen_and_the_classifier_is_not(name):
    model = timm.create_model(name)
    freeze_lower(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert flags == sorted(flags)  # frozen ones first
    assert not flags[0]
    assert flags[-1]
