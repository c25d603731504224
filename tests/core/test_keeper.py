"""core.keeper: what is due, what is refused, what is told."""

import pytest
import torch
from torch import nn

from torchard.core.callback import TrainingRun
from torchard.core.errors import DivergedError, UsageError
from torchard.core.keeper import SHARE, Keeper, Stateful
from torchard.core.launch import accelerator_for
from torchard.core.run import RunFolder, Stage


def build(
    stage: Stage | None, *, seed: int = 0, parts: tuple[str, ...] = ("optimizer",)
) -> tuple[Keeper, TrainingRun]:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = TrainingRun(model, optimizer, torch.Generator(), lambda **metrics: None)
    named = dict.fromkeys(parts, optimizer)
    return Keeper(stage, accelerator_for("no"), run, named, identity={"seed": seed}), run


@pytest.fixture
def stage(tmp_path):
    with RunFolder.open(tmp_path / "run", {}) as folder:
        yield folder.stage("tune")


def test_everything_comes_back(stage):
    keeper, run = build(stage)
    run.model(torch.ones(1, 3)).sum().backward()
    run.optimizer.step()
    run.generator.manual_seed(5)
    run.step, run.epoch, run.fraction, run.stopped_by = 7, 2, 0.5, "enough"
    keeper.save(3.0, limits={"steps": 7})
    expected = torch.rand(2), torch.rand(2, generator=run.generator)

    other, fresh = build(stage)
    state = other.find()
    assert state["limits"] == {"steps": 7}
    fresh.load_state_dict(state["run"])
    other.restore(state)
    assert (fresh.step, fresh.epoch, fresh.fraction, fresh.stopped_by) == (7, 2, 0.5, "enough")
    assert torch.equal(fresh.model.weight, run.model.weight)
    momentum = fresh.optimizer.state[fresh.model.weight]["momentum_buffer"]
    assert torch.equal(momentum, run.optimizer.state[run.model.weight]["momentum_buffer"])
    assert torch.equal(torch.rand(2), expected[0])
    assert torch.equal(torch.rand(2, generator=fresh.generator), expected[1])
    assert "of step 7" in other.summary


def test_a_checkpoint_is_due_after_the_time_given_but_never_takes_more_than_its_share(stage):
    keeper, _ = build(stage)
    assert not keeper.due(29.0, 30)
    assert keeper.due(30.0, 30)
    keeper.save(30.0)
    keeper._cost = 4.0
    assert not keeper.due(30.0 + 4.0 * SHARE - 1, 30)
    assert keeper.due(30.0 + 4.0 * SHARE, 30)


def test_without_a_folder_nothing_is_due_and_nothing_found():
    keeper, _ = build(None)
    keeper.save(1.0)
    assert not keeper.due(1e9, 0)
    assert keeper.find() is None
    assert "want of a `folder`" in keeper.summary


def test_another_training_is_refused_with_both_values(stage):
    build(stage)[0].save(0.0)
    with pytest.raises(UsageError, match="with seed 0, not 3; remove it"):
        build(stage, seed=3)[0].find()
    with pytest.raises(UsageError, match=r"with parts \['optimizer'\], not \['optimizer', 'watch'\]"):
        build(stage, parts=("optimizer", "watch"))[0].find()


def test_a_model_with_nan_is_not_saved_over_a_good_one(stage):
    keeper, run = build(stage)
    keeper.save(0.0)
    run.step = 4
    run.model.bias.data[0] = torch.nan
    with pytest.raises(DivergedError, match=r"'bias' after step 4; the last good checkpoint is of step 0"):
        keeper.save(1.0)
    assert torch.isfinite(keeper.find()["model"]["bias"]).all()


def test_parts_are_whatever_has_state():
    assert isinstance(nn.Linear(1, 1), Stateful)
    assert not isinstance(object(), Stateful)
