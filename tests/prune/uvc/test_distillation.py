"""Learning from the model as it was."""

import pytest
import torch
import torch.nn.functional as F

from tests.prune.uvc.models import images, small_vit
from torchard.prune.uvc import Distillation, Distilled, distillation_loss

GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS, ANSWERS = torch.randn(5, 7, generator=GENERATOR), torch.randn(5, 7, generator=GENERATOR)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_divergence_of_softened_answers(temperature):
    p, q = (ANSWERS / temperature).softmax(1), (OUTPUTS / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(OUTPUTS, ANSWERS, temperature=temperature), expected)


def test_the_official_reduction_is_weaker_by_the_number_of_classes():
    whole = distillation_loss(OUTPUTS, ANSWERS)
    torch.testing.assert_close(distillation_loss(OUTPUTS, ANSWERS, reduction="numel"), whole / 7)


def test_equal_answers_cost_nothing():
    assert distillation_loss(ANSWERS, ANSWERS + 3).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_the_model_as_it_was():
    model = small_vit()
    teaching = Distilled(model, Distillation(alpha=1.0))
    with torch.no_grad():
        outputs = model.eval()(images())
        model.head.weight.zero_()
    assert teaching.mixed(images(), outputs, torch.tensor(9.0)).item() == pytest.approx(0, abs=1e-5)


def test_loss_and_teacher_are_mixed_by_alpha():
    model, loss = small_vit(), torch.tensor(2.0)
    teaching = Distilled(model, Distillation(alpha=0.25))
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        kl = distillation_loss(outputs, model.eval()(images()))
    torch.testing.assert_close(teaching.mixed(images(), outputs, loss), 0.75 * loss + 0.25 * kl)


@pytest.mark.parametrize("settings", [Distillation(teacher=None), Distillation(alpha=0.0)], ids=["none", "0"])
def test_without_a_teacher_the_loss_stays(settings):
    loss = F.cross_entropy(OUTPUTS, torch.arange(5))
    assert Distilled(small_vit(), settings).mixed(images(), OUTPUTS, loss) is loss


def test_a_teacher_of_other_classes_is_refused():
    settings = Distillation(teacher=small_vit(num_classes=4))
    with pytest.raises(ValueError, match="4 classes apart, the model 3"):
        Distilled(small_vit(), settings, example=images(1))


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("temperature", 0.0), ("reduction", "sum")])
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(Exception, match=name):
        Distillation(**{name: value})
