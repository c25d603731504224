"""The linear probe against scikit-learn and against its own optimality condition."""

import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression

from torchard.core.features import penultimate
from torchard.tune.linear_probe import fit_linear_probe, set_classifier_


def blobs(
    n: int = 120, d: int = 8, classes: int = 3, seed: int = 0, noise: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99)).double()
    targets = torch.arange(n) % classes
    return centres[targets] + noise * torch.randn(n, d, generator=generator).double(), targets


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_it_is_the_logistic_regression_of_scikit_learn(strength):
    features, targets = blobs()
    features = (features - features.mean(0)) / features.std(0, correction=0)
    probe = fit_linear_probe(features, targets, *blobs(seed=1), strengths=[strength])
    theirs = LogisticRegression(C=1 / (strength * len(features)), tol=1e-8, max_iter=1000)
    theirs.fit(features.numpy(), targets.numpy())
    torch.testing.assert_close(
        probe.logits(features).softmax(1),
        torch.from_numpy(theirs.predict_proba(features.numpy())),
        rtol=0,
        atol=2e-4,
    )


def test_shifted_and_scaled_features_give_the_same_answers():
    (features, targets), (held, held_targets) = blobs(), blobs(seed=1)
    plain = fit_linear_probe(features, targets, held, held_targets)
    factor, offset = torch.logspace(-3, 3, 8).double(), torch.linspace(-50, 50, 8).double()
    other = fit_linear_probe(features * factor + offset, targets, held * factor + offset, held_targets)
    assert plain.strength == other.strength
    torch.testing.assert_close(other.logits(held * factor + offset), plain.logits(held), rtol=1e-3, atol=1e-3)


def test_one_hot_rows_equal_class_numbers_and_soft_ones_do_not():
    features, targets = blobs()
    rows = torch.nn.functional.one_hot(targets, 3).double()
    hard = fit_linear_probe(features, targets, *blobs(seed=1))
    same = fit_linear_probe(features, rows, *blobs(seed=1))
    torch.testing.assert_close(same.weight, hard.weight, rtol=1e-6, atol=1e-8)
    soft = fit_linear_probe(features, 0.5 * rows + 0.5 / 3, *blobs(seed=1))
    assert soft.logits(features).softmax(1).max() < hard.logits(features).softmax(1).max()


def test_the_strength_with_the_least_validation_loss_is_kept():
    train, held = blobs(n=30, d=40, noise=4.0), blobs(n=300, d=40, seed=1, noise=4.0)
    strengths = (3.0, 0.3, 0.03, 1e-4)
    alone = {s: fit_linear_probe(*train, *held, strengths=[s]).validation_loss for s in strengths}
    chosen = fit_linear_probe(*train, *held, strengths=strengths)
    assert chosen.strength == min(alone, key=alone.get)
    assert chosen.strength > 1e-4
    assert chosen.validation_loss == pytest.approx(min(alone.values()), rel=1e-3)


def test_class_weights_move_the_border_towards_the_common_class():
    features, targets = blobs(n=200, d=2, classes=2)
    rare = torch.cat([torch.nonzero(targets == 0).flatten(), torch.nonzero(targets == 1).flatten()[:10]])
    plain = fit_linear_probe(features[rare], targets[rare], features, targets)
    weighted = fit_linear_probe(
        features[rare], targets[rare], features, targets, class_weights=torch.tensor([0.1, 1.0]).double()
    )
    assert (weighted.logits(features).argmax(1) == 1).sum() > (plain.logits(features).argmax(1) == 1).sum()


def test_constant_features_get_no_weight():
    features, targets = blobs()
    features[:, 3] = 7.0
    probe = fit_linear_probe(features, targets, features, targets)
    assert torch.equal(probe.weight[:, 3], torch.zeros(3).double())
    assert torch.isfinite(probe.bias).all()


def test_the_probe_becomes_the_models_classifier():
    model = timm.create_model("test_resnet", num_classes=3).eval()
    images, targets = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    with torch.no_grad():
        features = penultimate(model, images)
        probe = fit_linear_probe(features, targets, features, targets)
        set_classifier_(model, probe)
        torch.testing.assert_close(model(images), probe.logits(features), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="Give the model its classes first"):
        set_classifier_(timm.create_model("test_resnet", num_classes=4), probe)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": torch.zeros(5, dtype=torch.long)}, "120 rows for 5 targets"),
        ({"features": torch.full((120, 8), float("nan")).double()}, "hold NaN"),
        ({"validation_features": torch.zeros(60, 3).double()}, "8 and 3 columns"),
        ({"num_classes": 2}, "classes"),
        ({"strengths": []}, "strengths"),
        ({"strengths": [-1.0]}, "strengths"),
    ],
    ids=["length", "nan", "columns", "classes", "none", "negative"],
)
def test_bad_input_is_refused(change, match, untyped):
    features, targets = blobs()
    held, held_targets = blobs(n=60, seed=1)
    names = ("features", "targets", "validation_features", "validation_targets")
    given = dict(zip(names, (features, targets, held, held_targets), strict=True))
    with pytest.raises(ValueError, match=match):
        fit_linear_probe(**{**given, **change})


def test_one_class_is_refused():
    features, _ = blobs()
    same = torch.zeros(120, dtype=torch.long)
    with pytest.raises(ValueError, match="classes"):
        fit_linear_probe(features, same, features, same)
