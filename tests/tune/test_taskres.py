"""TaskRes against its definition, on the packed small encoder and on made-up features."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.contracts.cases import TransformCase
from torchard.nn.dual_encoder import tiny_clip
from torchard.tune import AdapterMismatchError, NotMergeableError, taskres
from torchard.tune.taskres import TaskResidual, epoch_rate
from torchard.tune.text_classifier import (
    ZeroShotClassifier,
    cosine_logits,
    enhanced_text_classifier,
    step_size,
    text_classifier,
)

NAMES = ["one", "two", "three"]
TEMPLATES = ["a photo of the {}", "the {}"]


def features(n: int = 12, d: int = 6, c: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64) * 3
    labels = torch.arange(n) % c
    images = text[labels] + 4 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return text, images, labels


def encoder() -> nn.Module:
    return tiny_clip(pretrained=False, seed=3)


def zero_shot() -> ZeroShotClassifier:
    model = encoder()
    return ZeroShotClassifier(model, text_classifier(model, NAMES, TEMPLATES), NAMES)


def images(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_zero_residual_is_the_zero_shot_classifier_bit_for_bit():
    text, found, _ = features()
    residual = TaskResidual(text, logit_scale=20.0)
    assert torch.equal(residual.logits(found), cosine_logits(found, text, 20.0))
    assert sum(p.numel() for p in residual.parameters()) == text.numel()
    expected = zero_shot()(images())
    model = taskres.attach(zero_shot())
    assert torch.equal(model(images()), expected)
    assert list(taskres.trainable_parameters(model)) == ["classifier.residual"]


def test_the_gradient_at_zero_is_orthogonal_to_the_text_and_linear_in_alpha():
    text, found, labels = features()
    gradients = []
    for alpha in (0.5, 1.0):
        residual = TaskResidual(text, alpha)
        F.cross_entropy(residual.logits(found, 10.0), labels).backward()
        gradients.append(residual.residual.grad)
    assert F.cosine_similarity(gradients[0], text).abs().max() <= 1e-6
    torch.testing.assert_close(2 * gradients[0], gradients[1])


def test_scaling_what_should_not_matter_changes_nothing():
    text, found, _ = features()
    residual = TaskResidual(text)
    residual.residual.data.normal_()
    expected = residual.logits(found)
    torch.testing.assert_close(residual.logits(3 * found), expected)
    scaled = TaskResidual(5 * text)
    scaled.residual.data.copy_(5 * residual.residual)
    torch.testing.assert_close(scaled.logits(found), expected)


def test_subset_selects_and_orders_columns_and_extend_adds_them():
    text, found, _ = features()
    residual = TaskResidual(text)
    residual.residual.data.normal_()
    logits = residual.logits(found)
    torch.testing.assert_close(residual.subset([2, 0]).logits(found), logits[:, [2, 0]])
    longer = residual.extend(text[:1] + 1)
    torch.testing.assert_close(longer.logits(found)[:, :3], logits)
    torch.testing.assert_close(longer.logits(found)[:, 3:], cosine_logits(found, text[:1] + 1, 100.0))
    torch.testing.assert_close(residual.to_linear()(F.normalize(found, dim=-1)), logits)
    assert residual.shares().shape == (3,)


def test_training_on_cached_features_helps_and_leaves_the_text_alone():
    text, found, labels = features(n=60)
    before = text.clone()
    residual = taskres.fit(text, found, labels, logit_scale=10.0, epochs=40, lr=0.05)
    assert torch.equal(text, before)
    zero = F.cross_entropy(cosine_logits(found, text, 10.0), labels)
    assert F.cross_entropy(residual.logits(found), labels) < 0.9 * zero
    again = taskres.fit(text, found, labels, logit_scale=10.0, epochs=40, lr=0.05)
    assert torch.equal(again.residual, residual.residual)


def test_the_best_epoch_on_validation_is_kept():
    text, found, labels = features(n=60)
    held = (-found, labels)  # the more is learnt, the worse on these
    residual = taskres.fit(text, found, labels, logit_scale=10.0, epochs=30, lr=0.5, val=held)
    last = taskres.fit(text, found, labels, logit_scale=10.0, epochs=30, lr=0.5)

    def hits(one: TaskResidual) -> float:
        return (one.logits(held[0]).argmax(1) == labels).float().mean().item()

    assert hits(residual) >= hits(last)
    assert not torch.equal(residual.residual, last.residual)


def test_cached_training_equals_training_end_to_end():
    model, labels, epochs, rate = taskres.attach(zero_shot()), torch.arange(6) % 3, 5, 0.02
    optimizer = torch.optim.Adam(taskres.trainable_parameters(model).values())
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = epoch_rate(epoch, epochs, rate)
        loss = F.cross_entropy(model(images()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plain = zero_shot()
    cached = plain.encoder.encode_image(images()).detach()
    scale = float(plain.classifier.scale)
    found = taskres.fit(plain.classifier.weight, cached, labels, epochs=epochs, lr=rate, logit_scale=scale)
    torch.testing.assert_close(
        found.residual.data,
        taskres.trainable_parameters(model)["classifier.residual"].data,
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_merge_gives_the_same_logits_and_unmerge_the_same_bits():
    model = taskres.attach(zero_shot())
    weight = model.classifier.weight.clone()
    model.classifier.torchard_adapters["default"].residual.normal_()
    expected = model(images())
    torch.testing.assert_close(taskres.merge(model)(images()), expected, rtol=1e-6, atol=1e-5)
    linear = model.to_linear()(model.encoder.encode_image(images(), normalize=True))
    torch.testing.assert_close(linear, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(taskres.unmerge(model).classifier.weight, weight)
    with taskres.disabled(model):
        assert torch.equal(model(images()), zero_shot()(images()))


@torch.no_grad()
def test_a_stored_residual_follows_its_classes_into_another_order(tmp_path):
    model = taskres.attach(encoder(), NAMES, TEMPLATES)
    model.classifier.torchard_adapters["default"].residual.normal_()
    folder = taskres.save(model, tmp_path)
    assert torch.equal(taskres.load(zero_shot(), folder)(images()), model(images()))

    config = json.loads((folder / "adapter.json").read_text())["config"]
    assert config["classnames"] == NAMES
    assert config["templates"] == TEMPLATES

    order = ["three", "one", "two"]
    turned = ZeroShotClassifier(encoder(), text_classifier(encoder(), order, TEMPLATES), order)
    taskres.load(turned, folder)
    torch.testing.assert_close(turned(images()), model(images())[:, [2, 0, 1]])
    merged = taskres.merge(turned)
    torch.testing.assert_close(merged(images()), model(images())[:, [2, 0, 1]])

    others = ["one", "two", "four"]
    with (
        pytest.warns(UserWarning, match="other weights"),
        pytest.raises(AdapterMismatchError, match="differ in four, three"),
    ):
        taskres.load(
            ZeroShotClassifier(encoder(), text_classifier(encoder(), others, TEMPLATES), others), folder
        )


def test_an_image_residual_moves_all_features_alike_and_is_not_merged():
    text, found, labels = features()
    residual = taskres.fit(text, found, labels, modality="image", epochs=5, lr=0.1)
    assert residual.residual.shape == (1, 6)
    expected = cosine_logits(found + 0.5 * residual.residual, text, 100.0)
    torch.testing.assert_close(residual.logits(found), expected)
    with pytest.raises(ValueError, match="image residual"):
        residual.to_linear()
    model = taskres.attach(zero_shot(), modality="image")
    model(images()).sum().backward()
    with pytest.raises(NotMergeableError):
        taskres.merge(model)


def test_a_learnable_alpha_is_trained_from_a_half():
    text, found, labels = features()
    residual = taskres.fit(text, found, labels, alpha="learnable", epochs=10, lr=0.05)
    assert residual.alpha.item() != 0.5
    assert set(dict(TaskResidual(text, "learnable").named_parameters())) == {"residual", "alpha"}
    assert TaskResidual(text, "learnable").alpha.item() == 0.5


def test_one_template_gives_the_same_logits_in_both_ensembles():
    model = encoder()
    found = torch.randn(4, 64)
    raw, unit = (text_classifier(model, NAMES, TEMPLATES[:1], kind) for kind in ("raw", "normalized"))
    torch.testing.assert_close(cosine_logits(found, raw, 10.0), cosine_logits(found, unit, 10.0))
    raw, unit = (text_classifier(model, NAMES, TEMPLATES, kind) for kind in ("raw", "normalized"))
    assert not torch.allclose(raw, unit)
    torch.testing.assert_close(unit.norm(dim=1).std(), torch.tensor(0.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("explicit", [True, False])
def test_an_adapted_projection_fits_the_shots_better(explicit):
    model = encoder()
    if not explicit:
        kept = {name: getattr(model, name) for name in ("encode_text", "tokenize", "logit_scale")}
        model = SimpleNamespace(**kept)
    text = text_classifier(encoder(), NAMES, TEMPLATES)
    labels = torch.arange(30) % 3
    shots = text[labels] + torch.randn(30, 64)
    enhanced, projection = enhanced_text_classifier(model, NAMES, TEMPLATES, shots, labels, lr=1e-2)
    assert (enhanced.shape, projection.shape) == (text.shape, (64, 64))
    before, after = (F.cross_entropy(cosine_logits(shots, t, 10.0), labels) for t in (text, enhanced))
    assert after < before
    unchanged, _ = enhanced_text_classifier(model, NAMES, TEMPLATES, shots, labels, epochs=0)
    torch.testing.assert_close(unchanged, text, rtol=1e-5, atol=1e-5)


def test_the_automatic_rate_follows_the_scale_of_the_features():
    openai = torch.randn(10, 1024)
    openai = 10 * openai / openai.norm(dim=1, keepdim=True)
    assert step_size(openai, 2e-3) == pytest.approx(2e-3, rel=1e-4)
    assert step_size(3 * openai, 2e-3) == pytest.approx(6e-3, rel=1e-4)
    assert step_size(1e4 * openai, 2e-3) == 1e-1
    assert step_size(1e-4 * openai, 2e-3) == 1e-4


def test_bad_input_is_refused(untyped):
    text, found, labels = features()
    model = encoder()
    for change, match in [
        ({"image_features": found[:, :5]}, "6 columns"),
        ({"labels": labels + 1}, r"must lie in 0…2"),
        ({"labels": labels[:0], "image_features": found[:0]}, "need as many"),
        ({"image_features": found * float("nan")}, "NaN"),
        ({"text_features": text * torch.tensor([[0.0], [1.0], [1.0]])}, "row of zeros"),
        ({"text_features": text[:1], "labels": 0 * labels}, "two classes"),
        ({"alpha": 0.0}, "must be positive"),
    ]:
        with pytest.raises(ValueError, match=match):
            taskres.fit(**{"text_features": text, "image_features": found, "labels": labels, **change})
    with pytest.raises(ValueError, match=r"repeated: \['one'\]"):
        taskres.attach(model, ["one", "one"], TEMPLATES)
    with pytest.raises(ValueError, match="two or more"):
        taskres.attach(model, ["one"], TEMPLATES)
    with pytest.raises(ValueError, match=r"must contain '{}' once"):
        taskres.attach(model, NAMES, ["a photo"])
    with pytest.raises(ValueError, match="the encoder gives 64"):
        ZeroShotClassifier(model, text)
    with pytest.warns(UserWarning, match=r"classes \[2\] have no example"):
        taskres.fit(text, found[labels < 2], labels[labels < 2], epochs=1)


def contract_case() -> TransformCase:
    return TransformCase(
        build=zero_shot,
        inputs=images(),
        apply=taskres.attach,
        undo=taskres.detach,
        save=taskres.save,
        load=taskres.load,
    )


def test_the_encoder_is_untouched_by_training():
    model = taskres.attach(zero_shot())
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.Adam(taskres.parameter_groups(model, lr=0.1, weight_decay=0.0))
    F.cross_entropy(model(images()), torch.arange(6) % 3).backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())
    assert all(p.grad is None for p in model.encoder.parameters())
