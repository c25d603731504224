"""The search as a whole: by hand, in the Trainer, resumed, and refused."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.prune.uvc.models import DEPTH, SPEC, answers, images, small_vit
from torchard.core.budget import count_macs
from torchard.core.callback import Callback, TrainingRun
from torchard.core.errors import DivergedError, UsageError
from torchard.core.trainer import Trainer
from torchard.prune.uvc import UVC, Distillation, Rates, Search, UnsupportedModel, UVCDecision, export
from torchard.prune.uvc.projection import floor_macs

INPUTS, TARGETS = images(16, seed=3), torch.arange(16) % 3
FAST = Rates(heads=0.2, units=2.0, dims=0.4, gate_interval=2, dual=0.1, z=(5.0, 20.0))
SEARCH = Search(warmup_epochs=1, rates=FAST)


def searched(
    epochs: int = 4, *, budget: float = 0.5, search: Search = SEARCH, seed: int = 0, per_epoch: int = 4
) -> UVC:
    model = small_vit()
    uvc = UVC(model, budget, search=search, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    uvc.attach()
    for epoch in range(epochs):
        uvc.begin_epoch(epoch, fraction=epoch / epochs)
        model.train()
        for _ in range(per_epoch):
            one_step(uvc, optimizer)
    uvc.detach()
    return uvc


def one_step(uvc: UVC, optimizer: torch.optim.Optimizer) -> None:
    loss = uvc.loss(INPUTS, uvc.model(INPUTS), TARGETS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    uvc.step(optimizer)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, shuffle=True)


def trainer(uvc: UVC, folder=None, **limits) -> Trainer:
    return Trainer(
        uvc.model,
        F.cross_entropy,
        torch.optim.AdamW(uvc.model.parameters(), lr=1e-2),
        loader(),
        callbacks=[uvc],
        folder=folder,
        seed=0,
        **limits,
    )


@pytest.mark.parametrize(
    "search",
    [
        SEARCH,
        Search(warmup_epochs=1, rates=FAST, ragged=True),
        Search(warmup_epochs=1, rates=FAST, gate="l0"),
        Search(warmup_epochs=1, rates=FAST, accounting="official"),
        Search(warmup_epochs=1, rates=FAST, prune=("heads", "mlp")),
        Search(warmup_epochs=0),
    ],
    ids=["tied", "ragged", "l0", "official", "two kinds", "paper"],
)
def test_whatever_was_searched_the_exported_model_meets_the_budget(search):
    uvc = searched(search=search, budget=0.6)
    decision = uvc.decision()
    measured = count_macs(export(uvc.model, decision), images(1))
    assert measured == decision.macs(SPEC) <= 0.6 * count_macs(uvc.model, images(1))


def test_the_search_itself_comes_down_to_the_budget():
    uvc = searched(epochs=8, per_epoch=8)
    assert uvc.resource() < 0.75
    assert 0 < uvc.variables.violation(_scores(uvc)) < 0.5


def test_with_the_whole_budget_nothing_is_removed():
    uvc = searched(budget=1)
    assert uvc.decision() == UVCDecision.dense(SPEC)
    assert uvc.resource() == 1
    assert uvc.variables.z == 0


def test_while_warming_up_only_the_weights_change():
    uvc = searched(epochs=1)
    assert uvc.warming
    assert not uvc.variables.s.any()
    assert uvc.gates.logits.tolist() == [[-1, 1]] * DEPTH
    assert uvc.gates.soft().tolist() == [0.5] * DEPTH


def test_what_is_to_go_shrinks():
    model = small_vit()
    uvc = UVC(model, search=SEARCH)
    uvc.variables.s[0] = torch.tensor([1.0, 3.0])
    uvc.variables.r[1] = 2
    uvc.variables.y, uvc.variables.p = torch.full((DEPTH, 2), 10.0), torch.full((DEPTH, 1), 30.0)
    before = _scores(uvc)
    uvc._shrink(before, {id(p): 0.1 for p in model.parameters()})
    after = _scores(uvc)
    gone = ~before.surviving(uvc.variables.s[:, 0])
    ratio = (after.dims / before.dims).sqrt()
    torch.testing.assert_close(
        ratio[0][gone[0]], torch.full((1, 4), 1 / 3.0, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert (ratio[0][~gone[0]] == 1).all()
    assert ((ratio[1] - 1 / 7).abs() < 1e-4).sum(dim=1).tolist() == [2, 2, 2]
    assert (after.units != before.units).sum(dim=1).tolist() == [3, 0, 0]


def test_seeds_repeat():
    one, same, other = searched(), searched(), searched(seed=1)
    assert torch.equal(one.variables.s, same.variables.s)
    assert torch.equal(one.gates.logits, same.gates.logits)
    assert one.decision() == same.decision()
    assert not torch.equal(one.gates.logits, other.gates.logits)


def test_a_search_goes_on_where_it_was_saved():
    model = small_vit()
    uvc = UVC(model, search=SEARCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    uvc.attach()
    for epoch in range(2):
        uvc.begin_epoch(epoch, fraction=epoch / 4)
        for _ in range(3):
            one_step(uvc, optimizer)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(uvc.state_dict())
    twin = UVC(small_vit(), search=SEARCH, seed=99)
    twin.distilled = uvc.distilled
    twin.model.load_state_dict(weights)
    twin.attach()
    twin.load_state_dict(state)
    other = torch.optim.SGD(twin.model.parameters(), lr=1e-2)
    for _ in range(3):
        one_step(uvc, optimizer)
        one_step(twin, other)
    assert torch.equal(uvc.variables.s, twin.variables.s)
    assert uvc.variables.z == twin.variables.z
    assert torch.equal(uvc.gates.logits, twin.gates.logits)
    assert all(map(torch.equal, model.state_dict().values(), twin.model.state_dict().values()))


class Dies(Callback):
    """After a step of its own."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: TrainingRun) -> None:
        if run.step == self.step:
            raise OSError("killed")


def test_a_training_that_was_killed_ends_like_one_that_was_not(tmp_path):
    def run(folder, dies):
        uvc = UVC(small_vit(), search=SEARCH)
        made = trainer(uvc, tmp_path / folder, epochs=3)
        made.callbacks.append(Dies(dies))
        made.fit(checkpoint_seconds=0)
        return uvc

    whole = run("whole", 0)
    with pytest.raises(OSError, match="killed"):
        run("parts", 7)
    second = run("parts", 0)
    assert second.variables.s.any()
    assert torch.equal(whole.variables.s, second.variables.s)
    assert torch.equal(whole.gates.logits, second.gates.logits)
    assert torch.equal(answers(whole.model), answers(second.model))
    assert not any(module._forward_hooks for module in second.model.modules())


def test_metrics_tell_kinds_apart(tmp_path):
    uvc = UVC(small_vit(), search=SEARCH)
    made = trainer(uvc, tmp_path / "run", epochs=2)
    made.evaluate = lambda model: {"ok": 1.0}
    made.fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "resource" in line]
    assert len(logged) >= 2
    assert {"blocks", "heads", "dims", "units", "macs", "price"} <= logged[-1].keys()


def test_the_training_stops_once_an_epoch_has_held_all_constraints():
    search = Search(warmup_epochs=0, prune=("mlp",), rates=Rates(units=0.0, dual=0.0))
    uvc = UVC(small_vit(), 0.75, search=search)
    with torch.no_grad():
        for block in uvc.model.blocks:
            block.mlp.fc2.weight[:, :23] = 0
            block.mlp.fc2.weight.requires_grad_(False)
    uvc.variables.s[:, 1] = 23
    assert trainer(uvc, epochs=5).fit().stopped_by == "settled"


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.01, float("nan")])
def test_a_budget_that_is_no_share_is_refused(budget):
    with pytest.raises(ValueError, match="budget"):
        UVC(small_vit(), budget)


@pytest.mark.parametrize("prune", [("heads", "dims", "mlp", "blocks"), ("heads",), ("mlp",)], ids=str)
def test_a_budget_below_the_floor_is_refused_and_the_floor_is_told(prune):
    floor = floor_macs(SPEC, prune) / SPEC.macs
    with pytest.raises(ValueError, match=f"{floor:.3f}"):
        UVC(small_vit(), floor - 1e-6, search=Search(prune=prune))
    UVC(small_vit(), floor, search=Search(prune=prune))


def test_a_model_whose_values_cannot_be_narrowed_is_refused_unless_dims_are_left_out():
    class Renamed(type(small_vit().blocks[0].attn)):
        pass

    model = small_vit()
    model.blocks[1].attn.__class__ = Renamed
    with pytest.raises(UnsupportedModel, match=r"blocks\.1"):
        UVC(model)
    UVC(model, search=Search(prune=("heads", "mlp", "blocks")))


def test_a_loss_that_is_no_number_stops_before_anything_moves():
    uvc = UVC(small_vit(), search=Search(warmup_epochs=0))
    with pytest.raises(DivergedError, match="nan"):
        uvc.loss(INPUTS, torch.full((16, 3), torch.nan), TARGETS)


def test_weights_that_are_no_numbers_leave_the_variables_alone():
    model = small_vit()
    uvc = UVC(model, search=Search(warmup_epochs=0, rates=FAST))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    uvc.attach()
    uvc.begin_epoch(0, fraction=0.0)
    uvc.loss(INPUTS, model(INPUTS), TARGETS).backward()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[0, 0] = torch.nan
    before = copy.deepcopy(uvc.variables.state_dict())
    with pytest.raises(DivergedError, match="stands as it was"):
        uvc.step(optimizer)
    assert all(torch.equal(before[name], uvc.variables.state_dict()[name]) for name in ("s", "r", "y", "p"))


def test_a_step_without_attach_epoch_or_backward_is_refused():
    model = small_vit()
    uvc = UVC(model, search=Search(warmup_epochs=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="attach"):
        uvc.step(optimizer)
    uvc.attach()
    uvc.begin_epoch(0, fraction=0.0)
    model(INPUTS)
    with pytest.raises(RuntimeError, match="backward"):
        uvc.step(optimizer)
    one_step(uvc, optimizer)
    with pytest.raises(RuntimeError, match="backward"):
        uvc.step(optimizer)


def test_another_model_in_the_trainer_is_refused():
    uvc = UVC(small_vit())
    made = trainer(uvc, epochs=1)
    made.model = small_vit(seed=1)
    made.optimizer = made.schedule.optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="another model"):
        made.fit()


@pytest.mark.parametrize("changes", [{"prune": ()}, {"warmup_epochs": -1}, {"prune": ("tokens",)}], ids=str)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(Exception, match=next(iter(changes))):
        Search(**changes)


def test_no_teacher_is_needed():
    uvc = UVC(small_vit(), distillation=Distillation(teacher=None))
    outputs = uvc.model(INPUTS)
    torch.testing.assert_close(uvc.loss(INPUTS, outputs, TARGETS), F.cross_entropy(outputs, TARGETS))


def _scores(uvc: UVC):
    from torchard.prune.uvc import measure_scores

    return measure_scores(uvc.parts, uvc.spec)


def test_several_processes_share_the_mean_of_their_gate_gradients(monkeypatch):
    """The gates are outside the model, so nobody else averages them."""
    elsewhere = torch.full((DEPTH, 2), 3.0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(elsewhere))
    rates = Rates(heads=0.0, units=0.0, dims=0.0, gate=1.0, gate_weight=0.0, gate_interval=1)
    uvc = UVC(small_vit(), search=Search(warmup_epochs=0, rates=rates))
    uvc.attach()
    uvc.begin_epoch(0, fraction=0.0)
    uvc.loss(INPUTS, uvc.model(INPUTS), TARGETS).backward()
    here, before = uvc.gates.logits.grad.clone(), uvc.gates.logits.detach().clone()
    uvc.step(torch.optim.SGD(uvc.model.parameters(), lr=0.1))
    expected = before - (here + elsewhere) / 2 - 1e-4 * before
    torch.testing.assert_close(uvc.gates.logits.detach(), expected)
