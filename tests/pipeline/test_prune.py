"""The cut: what it leaves of the tuned model, and how near that comes to it."""

import copy
import dataclasses

import pytest
import timm
import torch

from torchard.core.budget import count_macs, parse_macs
from torchard.core.data import InputSpec
from torchard.pipeline.fit import opened
from torchard.pipeline.planning import Plan, example_images
from torchard.pipeline.prune import CALIBRATION_PIXELS, calibration_images, cut
from torchard.pipeline.settings import Settings
from torchard.pipeline.training import evaluate_split, optimizer, train
from torchard.prune import depgraph

SPEC = InputSpec((32, 32))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    settings = Settings("digits", seconds=60.0, macs=parse_macs("0.5x"))
    with opened(settings, tmp_path_factory.mktemp("cut") / "run") as job:
        job.task = dataclasses.replace(job.task, metric="accuracy")
        yield job


@pytest.fixture(scope="module")
def trained(job):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=10, in_chans=3)
    plan = Plan(120, (32,), "no")
    train(model, job.task, SPEC, plan, optimizer=optimizer(model, 3e-3, 0.05), evaluate=False)
    return model.eval()


def test_the_cut_model_answers_like_the_tuned_one_before_any_training(job, trained):
    before = copy.deepcopy(trained.state_dict())
    report, reached = cut(trained, job, SPEC)
    image = example_images(1, 32)
    assert reached
    assert count_macs(report.model, image) <= 0.5 * count_macs(trained, image)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())

    def likelihood(model):
        return evaluate_split(model, job.task, job.task.validation, SPEC)["nll"]

    bare = depgraph.apply(trained, report.plan, inplace=False).model
    whole, cut_only, refitted = (likelihood(model) for model in (trained, bare, report.model))
    assert whole < refitted < whole + 0.5 * (cut_only - whole)


def test_calibration_images_are_fewer_where_they_are_large(job):
    assert calibration_images(job, SPEC).shape == (256, 3, 32, 32)
    large = calibration_images(job, InputSpec((512, 512)))
    assert large.shape[0] == CALIBRATION_PIXELS // 512**2
