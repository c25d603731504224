"""The callbacks of the shared training, each against what it promises."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from torchard.core.callback import TrainingRun
from torchard.core.data import Batch
from torchard.pipeline.fusion import fuse_, fuse_frozen_
from torchard.pipeline.training import (
    VALIDATIONS,
    Distil,
    Frozen,
    GrowingImages,
    distillation_loss,
    validated_after,
    warm_cosine,
)
from torchard.pipeline.tune import freeze_lower
from torchard.tune.tune_mode import mode_of


def run_of(model: nn.Module, fraction: float = 0.0) -> TrainingRun:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingRun(model, optimizer, torch.Generator(), lambda **metrics: None, fraction=fraction)


def batch_of(size: int = 8) -> Batch:
    return Batch(torch.randn(2, 3, size, size), torch.tensor([0, 1]), torch.arange(2))


@pytest.mark.parametrize(("fraction", "size"), [(0.0, 4), (0.49, 4), (0.5, 8), (1.0, 8)])
def test_images_grow_with_the_time_used(fraction, size):
    grown = GrowingImages((4, 8)).on_batch(run_of(nn.Linear(1, 1), fraction), batch_of())
    assert grown.inputs.shape == (2, 3, size, size)


def test_distillation_is_the_entropy_of_the_answers_where_both_agree():
    answers = torch.randn(5, 3)
    soft = (answers / 2).softmax(dim=1)
    expected = -(soft * soft.log()).sum(dim=1).mean() * 4
    torch.testing.assert_close(distillation_loss(answers, answers, 2.0), expected)


def test_distillation_with_sure_answers_is_cross_entropy():
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    sure = 100.0 * functional.one_hot(targets, 3)
    torch.testing.assert_close(
        distillation_loss(outputs, sure, 1.0), functional.cross_entropy(outputs, targets)
    )


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_teacher_answers_in_the_precision_of_the_training(precision, dtype):
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    seen = []
    teacher.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    mixed = Distil(teacher, weight=1.0, precision=precision)
    mixed.on_loss(run_of(nn.Linear(1, 1)), torch.zeros(2, 2), batch_of(), torch.tensor(1.0))
    assert seen == [dtype]


def test_without_weight_the_teacher_changes_nothing():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    loss = torch.tensor(1.25)
    mixed = Distil(teacher, weight=0.0).on_loss(run_of(nn.Linear(1, 1)), torch.zeros(2, 2), batch_of(), loss)
    assert mixed == loss


def test_only_layers_of_which_nothing_is_trained_keep_their_statistics():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[0].requires_grad_(False)
    Frozen().on_fit_start(run_of(model.train()))
    assert [layer.training for layer in model] == [False, True]


def test_the_rate_rises_for_a_tenth_and_ends_at_nothing():
    assert warm_cosine(0.0) == pytest.approx(0.01)
    assert warm_cosine(0.1) == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)))
    assert warm_cosine(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(("each", "steps"), [(52, 517), (10, 300), (100, 40), (7, 7), (1, 3)])
def test_validation_comes_at_most_so_often_and_at_the_end(each, steps):
    ends = [*range(each, steps, each), steps]  # of the epochs
    chosen = [step for step in ends if validated_after(step, steps, each=each)]
    assert chosen[-1] == steps
    assert min(len(ends), VALIDATIONS) - 1 <= len(chosen) <= VALIDATIONS


def test_frozen_norms_compute_within_their_convolutions_and_change_nothing():
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=2).eval().double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    names = list(model.state_dict())
    before = model(images)
    freeze_lower(model)
    fuse_frozen_(model)
    fused = [name for name, mode in mode_of(model).items() if mode == "tune"]
    assert fused
    assert not any(
        parameter.requires_grad for name in fused for parameter in model.get_submodule(name).parameters()
    )
    torch.testing.assert_close(model(images), before)
    assert list(model.state_dict()) == names


def test_the_teacher_is_itself_again_after_the_training():
    teacher = timm.create_model("resnet18", num_classes=2).eval()
    mixed = Distil(teacher)
    mixed.on_fit_start(run_of(nn.Linear(1, 1)))
    assert set(mode_of(teacher).values()) == {"tune"}
    mixed.on_fit_end(run_of(nn.Linear(1, 1)))
    assert set(mode_of(teacher).values()) == {"eval"}


def test_a_model_without_batch_norms_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    fuse_(model)
    fuse_frozen_(model)
    assert mode_of(model) == {}
