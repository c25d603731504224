"""B-Tuning against its definition, in a plain loop and in the Trainer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.contracts.cases import LossCase
from torchard.core.features import penultimate
from torchard.core.trainer import Batch, Callback, Trainer
from torchard.tune.b_tuning import BTuning, Tradeoff, b_tuning_loss, mixture_weights, prepare_b_tuning

CLASSES = 3


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def batches(n: int = 4, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(8 * n) % CLASSES
    inputs = torch.randn(8 * n, 3, 2, 2, generator=generator) + targets[:, None, None, None]
    rows = torch.arange(8 * n).split(8)
    return [Batch(inputs[row], targets[row], row) for row in rows]


def teachers() -> dict[str, nn.Module]:
    return {"wide": network(9, 1), "narrow": network(5, 2), "other": network(7, 3), "fourth": network(6, 4)}


def test_shares_sum_to_one_and_follow_the_scores():
    shares = mixture_weights([0.3, 0.5, 0.1])
    assert shares.sum() == pytest.approx(1)
    assert shares.argmax() == 1
    torch.testing.assert_close(mixture_weights([0.2, 0.2]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(mixture_weights([0.3, 0.5, 0.1], 1e-6), torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(mixture_weights([7.3, 7.5, 7.1]), shares)


def test_the_term_is_the_mean_square_over_batch_and_classes():
    features, weight = torch.randn(4, 5).double(), torch.randn(3, 5).double()
    rows = [torch.randn(4, 2).double(), torch.randn(4, 6).double()]
    matrices = [torch.randn(3, 2).double(), torch.randn(3, 6).double()]
    total = 0.0
    for b in range(4):
        for c in range(3):
            target = sum(p * (r[b] @ m[c]) for p, r, m in zip((0.25, 0.75), rows, matrices, strict=True))
            total += float((features[b] @ weight[c] - target) ** 2) / 12
    found = b_tuning_loss(features, weight, rows, matrices, torch.tensor([0.25, 0.75]))
    assert float(found) == pytest.approx(total, rel=1e-12)


def test_a_teacher_turned_in_its_own_space_changes_nothing():
    features, weight = torch.randn(4, 5).double(), torch.randn(3, 5).double()
    rows, matrix = torch.randn(4, 6).double(), torch.randn(3, 6).double()
    turn, _ = torch.linalg.qr(torch.randn(6, 6).double())
    one = torch.ones(1)
    plain = b_tuning_loss(features, weight, [rows], [matrix], one)
    torch.testing.assert_close(b_tuning_loss(features, weight, [rows @ turn], [matrix @ turn], one), plain)


def test_gradients_reach_the_features_alone():
    tensors = [torch.randn(4, 5), torch.randn(3, 5), torch.randn(4, 2), torch.randn(3, 2)]
    features, weight, rows, matrix = (tensor.requires_grad_() for tensor in tensors)
    b_tuning_loss(features, weight, [rows], [matrix], torch.ones(1)).backward()
    assert features.grad.any()
    assert weight.grad is rows.grad is matrix.grad is None


def test_the_student_as_its_own_teacher_gives_zero_and_predicts_as_fitted():
    student = network(9, 0).eval()
    fit = prepare_b_tuning(student, {"itself": copy.deepcopy(student)}, batches())
    inputs = batches()[0].inputs
    features = penultimate(student, inputs)
    assert fit.loss(inputs, features).item() == 0
    torch.testing.assert_close(
        features.double() @ fit.student.weight.T, fit.student.predict(features.detach()), rtol=1e-6, atol=1e-6
    )


def test_the_best_teachers_by_evidence_are_kept_in_order():
    fit = prepare_b_tuning(network(9, 0), teachers(), batches(), top_k=2)
    every = prepare_b_tuning(network(9, 0), teachers(), batches(), top_k=4)
    scores = {name: one.score for name, one in every.teachers.items()}
    assert list(fit.teachers) == sorted(scores, key=scores.get, reverse=True)[:2]
    assert len(prepare_b_tuning(network(9, 0), teachers(), batches()).teachers) == 3


def test_a_shuffling_loader_gives_the_same_fits():
    class Shuffling:
        def __init__(self) -> None:
            self.passes = 0

        def __iter__(self):
            self.passes += 1
            found = batches()
            return iter(found[self.passes % 4 :] + found[: self.passes % 4])

    plain = prepare_b_tuning(network(9, 0), teachers(), batches())
    shuffled = prepare_b_tuning(network(9, 0), teachers(), Shuffling())
    torch.testing.assert_close(shuffled.student.weight, plain.student.weight)
    torch.testing.assert_close(shuffled.mixture, plain.mixture)


def test_each_teacher_sees_the_batch_through_its_own_transform():
    teacher = network(9, 1).eval()
    upside = {"t": lambda images: images.flip(-1)}
    plain = prepare_b_tuning(network(9, 0), {"t": teacher}, batches())
    flipped = prepare_b_tuning(network(9, 0), {"t": teacher}, batches(), teacher_transforms=upside)
    assert not torch.allclose(plain.teachers["t"].weight, flipped.teachers["t"].weight)
    inputs, features = batches()[0].inputs, torch.zeros(8, 9)
    expected = flipped.teachers["t"].predict(penultimate(teacher, inputs.flip(-1)).detach()).square().mean()
    assert flipped.loss(inputs, features).item() == pytest.approx(float(expected), rel=1e-4)


def test_teachers_keep_their_flags():
    models = teachers()
    models["wide"].train()
    for parameter in list(models["wide"].parameters())[::2]:
        parameter.requires_grad_(False)
    before = [(m.training, [p.requires_grad for p in m.parameters()]) for m in models.values()]
    statistics = models["wide"][2].running_mean.clone()
    fitted(BTuning(models, batches()))
    assert [(m.training, [p.requires_grad for p in m.parameters()]) for m in models.values()] == before
    assert torch.equal(models["wide"][2].running_mean, statistics)
    assert all(p.grad is None for m in models.values() for p in m.parameters())


def fitted(*callbacks: Callback, epochs: int = 3) -> nn.Module:
    model = network(9, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    Trainer(model, cross_entropy, optimizer, batches(), epochs=epochs, callbacks=callbacks).fit()
    return model


def test_a_weight_of_zero_is_plain_fine_tuning_bit_for_bit():
    plain, zero = fitted(), fitted(BTuning(teachers(), batches(), tradeoff=0.0))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), zero.parameters(), strict=True))


def test_the_trainer_takes_the_steps_of_the_plain_loop():
    found = fitted(BTuning(teachers(), batches(), tradeoff=2.0), epochs=1)
    model = network(9, 0)
    fit = prepare_b_tuning(model, {k: m.eval() for k, m in teachers().items()}, batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for batch in batches():
        features = penultimate(model, batch.inputs)
        loss = cross_entropy(model[4](features), batch.targets) + 2.0 * fit.loss(batch.inputs, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not found[4]._forward_pre_hooks


def test_a_named_feature_layer_is_used_and_its_size_told():
    callback = BTuning(teachers(), batches(), tradeoff=1.0, feature_layer="1")
    fitted(callback)
    assert callback.fit.student.weight.shape == (CLASSES, 9)
    with pytest.raises(ValueError, match="have 4 columns, but 1 had 9"):
        callback.fit.loss(batches()[0].inputs, torch.zeros(8, 4))


def test_unlabelled_images_join_the_term_in_proportion():
    class Stop(Callback):
        def on_loss(self, run, outputs, batch, loss):
            self.loss = loss.item()
            run.stop("seen")
            return loss

    extra = [batch.inputs for batch in batches(seed=5)]
    with_extra, without = Stop(), Stop()
    fitted(BTuning(teachers(), batches(), tradeoff=1.0, unlabeled_loader=extra), with_extra)
    fitted(BTuning(teachers(), batches(), tradeoff=1.0), without)
    model = network(9, 0).train()
    fit = prepare_b_tuning(model, {k: m.eval() for k, m in teachers().items()}, batches())
    task = cross_entropy(copy.deepcopy(model)(batches()[0].inputs), batches()[0].targets).item()
    own = without.loss - task
    other = fit.loss(extra[0], penultimate(copy.deepcopy(model), extra[0])).item()
    assert with_extra.loss == pytest.approx(task + 0.5 * own + 0.5 * other, rel=1e-4)


def test_the_automatic_weight_balances_the_gradients_and_warms_up():
    features = torch.randn(4, 5, requires_grad=True)
    tradeoff = Tradeoff()
    task, term = 3 * features.sum(), features.sum()
    assert tradeoff.weight(task, term, features) == pytest.approx(3.0, rel=1e-5)
    assert tradeoff.weight(task, term, features, fraction=0.01) == pytest.approx(0.6, rel=1e-5)
    assert Tradeoff().weight(1e-6 * task, term, features) == pytest.approx(0.1)
    assert Tradeoff().weight(1e6 * task, term, features) == pytest.approx(100.0)
    for _ in range(10):
        tradeoff.weight(task, term, features)
    assert len(tradeoff.ratios) == 5


def test_a_runaway_term_is_warned_about():
    tradeoff, one = Tradeoff(1.0), torch.ones(())
    tradeoff.weight(one, one, one)
    with pytest.warns(UserWarning, match="11 times its first value"):
        tradeoff.weight(one, 11 * one, one)


def test_its_state_brings_back_the_weight_and_the_place_in_the_unlabelled_images():
    def callback() -> BTuning:
        return BTuning(teachers(), batches(), unlabeled_loader=[b.inputs for b in batches(n=3, seed=5)])

    whole, again = callback(), callback()
    fitted(whole)  # 12 steps over 3 unlabelled batches
    again.load_state_dict(whole.state_dict())
    assert len(again.tradeoff.ratios) == 5
    assert again.tradeoff.ratios == whole.tradeoff.ratios
    for _ in range(4):
        assert torch.equal(again.unlabeled.take(), whole.unlabeled.take())
    early = callback()
    early.load_state_dict({**whole.state_dict(), "taken": 1})
    assert torch.equal(early.unlabeled.take(), batches(n=3, seed=5)[1].inputs)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"teachers": {}}, "number of teachers, 0"),
        ({"top_k": 0}, "`top_k=0` must lie between 1"),
        ({"top_k": 5}, "`top_k=5` must lie between 1 and the number of teachers, 4"),
        ({"loader": []}, "empty"),
        ({"temperature": 0.0}, "must be positive"),
        ({"teacher_transforms": {"nobody": nn.Identity()}}, "nobody"),
    ],
    ids=["no teachers", "none", "too many", "no data", "temperature", "transform"],
)
def test_bad_input_is_refused(options, match):
    given = {"teachers": teachers(), "loader": batches(), **options}
    with pytest.raises(ValueError, match=match):
        prepare_b_tuning(network(9, 0), given.pop("teachers"), given.pop("loader"), **given)


def test_sizes_that_do_not_agree_are_told(untyped):
    features, weight, one = torch.zeros(4, 5), torch.zeros(3, 5), torch.ones(1)
    with pytest.raises(ValueError, match="teacher 1 predicts 2 classes, the student 3"):
        b_tuning_loss(features, weight, [torch.zeros(4, 2)], [torch.zeros(2, 2)], one)
    with pytest.raises(ValueError, match="the student has 5 features, but a weight for 4"):
        b_tuning_loss(features, weight[:, :4], [torch.zeros(4, 2)], [torch.zeros(3, 2)], one)
    with pytest.raises(ValueError, match="do not go together"):
        b_tuning_loss(features, weight, [], [], one)
    with pytest.raises(ValueError, match="tradeoff"):
        Tradeoff(-1.0)


def contract_case() -> LossCase:
    generator = torch.Generator().manual_seed(0)
    shapes = {"features": (6, 5), "weight": (3, 5), "rows": (6, 4), "matrix": (3, 4)}
    drawn = {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}
    return LossCase(
        lambda features: b_tuning_loss(
            features, drawn["weight"], [drawn["rows"]], [drawn["matrix"]], torch.ones(1)
        ),
        drawn["features"],
    )
