"""core.trainer: the budget is kept, the moments come in order, and a resumed run is the same run."""

import copy
import itertools
import json
import math
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchard.core import checkpoint, keeper
from torchard.core.data import Batch
from torchard.core.errors import DivergedError, FileRefusedError, InterruptedRunError, UsageError
from torchard.core.run import RunFolder
from torchard.core.trainer import Callback, Trainer

HERE = Path(__file__).parent
INPUTS = torch.randn(22, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])


def make(model: nn.Module | None = None, *, loader=None, optimizer=None, **options) -> Trainer:
    """A small regression with dropout; five batches an epoch."""
    torch.manual_seed(1)
    if model is None:
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
    if loader is None:
        loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=5, shuffle=True)
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Trainer(model, nn.functional.mse_loss, optimizer, loader, **options)


def error(model: nn.Module) -> dict[str, torch.Tensor]:
    return {"error": nn.functional.mse_loss(model(INPUTS), TARGETS)}


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def lines(folder: Path) -> list[dict]:
    with_time = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in with_time]


def test_one_step_is_the_step_one_would_write_by_hand():
    trainer = make(nn.Linear(4, 1), loader=[(INPUTS, TARGETS)], steps=3)
    by_hand = nn.Linear(4, 1)
    by_hand.load_state_dict(trainer.model.state_dict())
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    for _ in range(3):
        nn.functional.mse_loss(by_hand(INPUTS), TARGETS).backward()
        optimizer.step()
        optimizer.zero_grad()
    trainer.fit()
    assert torch.equal(trainer.model.weight, by_hand.weight)


def test_it_learns():
    history = make(epochs=30, evaluate=error, optimizer=None).fit().history
    assert history[-1]["error"] < 0.5 * history[0]["error"]


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first, again, other = make(epochs=2), make(epochs=2), make(epochs=2, seed=1)
    for trainer in (first, again, other):
        torch.rand(int(torch.randint(1, 9, ())))  # what was drawn before plays no part
        trainer.fit()
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_fit_gives_the_global_random_state_back():
    before = torch.get_rng_state()
    trainer = make(epochs=1)
    torch.set_rng_state(before)
    trainer.fit()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("budget", "steps", "epochs", "reason"),
    [
        ({"epochs": 2}, 10, 2, "epochs"),
        ({"steps": 7}, 7, 1, "steps"),
        ({"steps": 10}, 10, 2, "steps"),
        ({"epochs": 2, "steps": 7}, 7, 1, "steps"),
        ({"epochs": 1, "steps": 7}, 5, 1, "epochs"),
    ],
    ids=str,
)
def test_the_first_limit_reached_ends_the_training(budget, steps, epochs, reason):
    result = make(**budget, evaluate=error).fit()
    assert (result.steps, result.epochs, result.stopped_by) == (steps, epochs, reason)
    assert [entry["step"] for entry in result.history] == [*range(5, steps, 5), steps]


class Clock:
    """Time as a test wants it: every look at it costs a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_seconds_count_evaluation_and_keep_room_for_the_last_one(monkeypatch):
    from torchard.core import allowance

    clock = Clock()
    monkeypatch.setattr(allowance, "time", clock)

    def slow(model):
        clock.now += 20
        return {}

    monkeypatch.setattr("torchard.core.trainer.time", clock)
    result = make(seconds=100, evaluate=slow).fit()
    assert result.stopped_by == "seconds"
    assert 75 < result.seconds <= 110
    assert result.history[-1]["step"] == result.steps


def test_fraction_goes_from_zero_to_one():
    class Note(Callback):
        def __init__(self):
            self.fractions = []

        def on_gradients(self, run):
            self.fractions.append(run.fraction)

        def on_fit_end(self, run):
            self.fractions.append(run.fraction)

    note = Note()
    make(epochs=2, callbacks=[note]).fit()
    assert note.fractions == pytest.approx([step / 10 for step in range(11)])


@pytest.mark.parametrize(
    "budget", [{}, {"epochs": 0}, {"steps": -1}, {"seconds": 0.0}, {"seconds": math.inf}], ids=str
)
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(UsageError, match="above zero"):
        make(**budget)


class Diary(Callback):
    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def on_fit_start(self, run):
        self.diary.append(f"{self.name} fit start")

    def on_epoch_start(self, run):
        self.diary.append(f"{self.name} epoch {run.epoch}")

    def on_batch(self, run, batch):
        self.diary.append(f"{self.name} batch {len(batch.inputs)}")
        return batch

    def on_loss(self, run, outputs, batch, loss):
        assert outputs.shape == batch.targets.shape
        self.diary.append(f"{self.name} loss")
        return loss

    def on_gradients(self, run):
        assert all(parameter.grad is not None for parameter in run.model.parameters())
        self.diary.append(f"{self.name} gradients")

    def on_step_end(self, run):
        self.diary.append(f"{self.name} step {run.step}")

    def on_evaluated(self, run, metrics):
        self.diary.append(f"{self.name} evaluated {sorted(metrics)}")

    def on_fit_end(self, run):
        self.diary.append(f"{self.name} fit end")


def test_the_eight_moments_come_in_order_and_in_the_order_of_the_list():
    diary: list[str] = []
    make(steps=1, callbacks=[Diary("a", diary), Diary("b", diary)], evaluate=error).fit()
    moments = [
        "fit start",
        "epoch 0",
        "batch 5",
        "loss",
        "gradients",
        "step 1",
        "evaluated ['error']",
        "fit end",
    ]
    assert diary == [f"{name} {moment}" for moment in moments for name in "ab"]


def test_callbacks_change_batch_and_loss():
    class Double(Callback):
        def on_batch(self, run, batch):
            return batch.replace(inputs=2 * batch.inputs)

        def on_loss(self, run, outputs, batch, loss):
            return loss + outputs.square().mean()

    trainer = make(nn.Linear(4, 1), loader=[(INPUTS, TARGETS)], steps=1, callbacks=[Double()])
    by_hand = nn.Linear(4, 1)
    by_hand.load_state_dict(trainer.model.state_dict())
    outputs = by_hand(2 * INPUTS)
    (nn.functional.mse_loss(outputs, TARGETS) + outputs.square().mean()).backward()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    optimizer.step()
    trainer.fit()
    assert torch.equal(trainer.model.weight, by_hand.weight)


def test_fit_end_comes_for_all_also_after_errors():
    diary: list[str] = []

    class Broken(Callback):
        def on_batch(self, run, batch):
            raise KeyError("broken")

        def on_fit_end(self, run):
            raise ValueError("broken too")

    with pytest.raises(ValueError, match="broken too") as caught:
        make(steps=1, callbacks=[Diary("a", diary), Broken(), Diary("b", diary)]).fit()
    assert isinstance(caught.value.__context__, KeyError)
    assert diary[-2:] == ["a fit end", "b fit end"]


def test_a_callback_can_stop_and_its_reason_is_kept():
    class Enough(Callback):
        def on_evaluated(self, run, metrics):
            if run.epoch == 2:
                run.stop("no better")
                run.stop("later reason")

    result = make(epochs=9, callbacks=[Enough()], evaluate=error).fit()
    assert (result.stopped_by, result.epochs, len(result.history)) == ("no better", 2, 2)


def test_callbacks_draw_from_a_generator_seeded_for_them():
    class Draw(Callback):
        def __init__(self):
            self.drawn = []

        def on_step_end(self, run):
            self.drawn.append(torch.rand((), generator=run.generator).item())

    draws = [Draw(), Draw(), Draw()]
    for draw, seed in zip(draws, (0, 0, 1)):
        make(steps=3, callbacks=[draw], seed=seed).fit()
    assert draws[0].drawn == draws[1].drawn != draws[2].drawn


def test_a_function_sets_learning_rates_from_the_fraction():
    class Note(Callback):
        def __init__(self):
            self.rates = []

        def on_gradients(self, run):
            self.rates.append([group["lr"] for group in run.optimizer.param_groups])

    note, model = Note(), nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    make(model, optimizer=optimizer, steps=4, scheduler=lambda fraction: 1 - fraction, callbacks=[note]).fit()
    assert note.rates == [pytest.approx([0.01 * rest, 0.1 * rest]) for rest in (1, 0.75, 0.5, 0.25)]


def test_a_torch_scheduler_is_stepped_after_every_step():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    make(model, optimizer=optimizer, scheduler=scheduler, steps=4).fit()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_accumulation_gives_the_step_of_the_batches_together():
    halves = [(INPUTS[:11], TARGETS[:11]), (INPUTS[11:], TARGETS[11:])]
    model = nn.Linear(4, 1)
    twin = copy.deepcopy(model)
    # SGD, since Adam would hide a wrong scale
    sgd = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, twin)]
    whole = make(model, loader=[(INPUTS, TARGETS)], optimizer=sgd[0], epochs=3)
    parts = make(twin, loader=halves, optimizer=sgd[1], epochs=3)
    whole.fit()
    result = parts.fit(accumulate=2)
    assert result.steps == 3
    torch.testing.assert_close(whole.model.weight, parts.model.weight)


def test_a_last_window_that_is_not_full_makes_a_step_too():
    assert make(epochs=2).fit(accumulate=2).steps == 6


def test_evaluation_is_in_evaluation_mode_and_flags_come_back():
    class Frozen(Callback):
        def on_fit_start(self, run):
            run.model[1].eval()

    seen = []

    def evaluate(model):
        seen.append([module.training for module in model.modules()])
        assert not torch.is_grad_enabled()
        return {}

    trainer = make(epochs=2, evaluate=evaluate, callbacks=[Frozen()])
    trainer.model.eval()
    trainer.fit()
    assert not any(itertools.chain(*seen))
    assert [module.training for module in trainer.model] == [True, False, True, True]


def test_names_that_training_uses_are_refused_from_evaluate():
    with pytest.raises(ValueError, match="validation_loss"):
        make(epochs=1, evaluate=lambda model: {"loss": 1.0}).fit()


def test_metrics_are_plain_numbers_and_nan_is_none():
    def evaluate(model):
        return {"auroc": math.nan, "count": torch.tensor(3), "per_class": {"a": torch.tensor([0.5])}}

    entry = make(epochs=1, evaluate=evaluate).fit().history[0]
    assert (entry["auroc"], entry["count"], entry["per_class"]) == (None, 3, {"a": [0.5]})


def test_metrics_file_has_steps_and_evaluations(tmp_path):
    result = make(epochs=3, evaluate=error, folder=tmp_path / "run").fit()
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [5, 10, 10, 15]
    assert {line["stage"] for line in found} == {"train"}
    assert [line["error"] for line in found if "error" in line] == [
        entry["error"] for entry in result.history
    ]
    assert all({"loss", "lr", "epoch"} <= line.keys() for line in found)


class Kill(Callback):
    """Fail like a lost process, without the signal: nothing is saved, nothing is told."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run):
        if run.step == self.step:
            raise ConnectionError("killed")


class Growing(Callback):
    """State, randomness of the callback's own and a line of metrics each step."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def on_step_end(self, run):
        self.total = self.total + torch.rand((), generator=run.generator)
        run.log(step=run.step, total=self.total)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


@pytest.mark.parametrize("kills", [[1], [4], [5], [6], [2, 4, 9, 10, 11]], ids=str)
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, kills, every):
    monkeypatch.setattr(keeper, "SHARE", 0)
    due = iter(itertools.cycle([False] * (every - 1) + [True]))
    monkeypatch.setattr(keeper.Keeper, "due", lambda self, clock, seconds: next(due))
    options = {"epochs": 3, "evaluate": error, "scheduler": lambda fraction: 1 - fraction}
    whole = make(folder=tmp_path / "whole", callbacks=[Growing(), Kill(-1)], **options)
    expected = whole.fit()
    for step in kills:
        with pytest.raises(ConnectionError):
            make(folder=tmp_path / "cut", callbacks=[Growing(), Kill(step)], **options).fit()
    resumed = make(folder=tmp_path / "cut", callbacks=[Growing(), Kill(-1)], **options)
    result = resumed.fit()
    assert torch.equal(weights(whole), weights(resumed))
    assert (result.steps, result.epochs, result.history) == (
        expected.steps,
        expected.epochs,
        expected.history,
    )
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")


def test_what_an_epochs_start_sets_up_is_set_up_again(tmp_path, monkeypatch):
    class Quiet(Callback):
        """No dropout in odd epochs: a flag, which no checkpoint holds."""

        def on_epoch_start(self, run):
            run.model[1].train(run.epoch % 2 == 0)

    monkeypatch.setattr(keeper, "SHARE", 0)
    whole = make(epochs=3, callbacks=[Quiet(), Kill(-1)])
    whole.fit()
    options = {"epochs": 3, "folder": tmp_path / "run"}
    with pytest.raises(ConnectionError):
        make(callbacks=[Quiet(), Kill(8)], **options).fit(checkpoint_seconds=0)
    resumed = make(callbacks=[Quiet(), Kill(-1)], **options)
    resumed.fit()
    assert torch.equal(weights(whole), weights(resumed))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = make(epochs=2, evaluate=error, folder=tmp_path / "run")
    result = first.fit()
    again = make(epochs=2, evaluate=lambda model: 1 / 0, folder=tmp_path / "run")
    assert again.fit() == result
    assert torch.equal(weights(first), weights(again))


def test_a_finished_run_goes_on_when_given_more(tmp_path):
    make(epochs=1, evaluate=error, folder=tmp_path / "run").fit()
    longer = make(epochs=3, evaluate=error, folder=tmp_path / "run")
    whole = make(epochs=3, evaluate=error)
    assert longer.fit().history == whole.fit().history
    assert torch.equal(weights(longer), weights(whole))


def test_a_callbacks_stop_holds_for_a_resumed_run(tmp_path):
    class Enough(Callback):
        def on_evaluated(self, run, metrics):
            run.stop("enough")

    for _ in range(2):
        result = make(epochs=5, callbacks=[Enough()], evaluate=error, folder=tmp_path / "run").fit()
        assert (result.steps, result.stopped_by) == (5, "enough")


def test_time_before_a_kill_counts(tmp_path, monkeypatch):
    from torchard.core import allowance

    monkeypatch.setattr(keeper, "SHARE", 0)
    monkeypatch.setattr(allowance, "time", Clock())
    with pytest.raises(ConnectionError):
        make(seconds=50, callbacks=[Kill(20)], folder=tmp_path / "run").fit(checkpoint_seconds=0)
    result = make(seconds=50, callbacks=[Kill(-1)], folder=tmp_path / "run").fit()
    assert 45 < result.seconds < 60
    assert result.steps < 50


def test_stages_of_one_run_do_not_meet(tmp_path):
    with RunFolder.open(tmp_path, {}) as folder:
        for phase in ("probe", "full"):
            make(epochs=1, folder=folder.stage("tune", phase)).fit()
        make(epochs=2, folder=folder).fit()
        phases = [(line["stage"], line["phase"]) for line in folder.metrics()]
    assert phases == [
        ("tune", "probe"),
        ("tune", "full"),
        ("train", "train"),
        ("train", "train"),
        ("train", "train"),
    ]


def test_a_checkpoint_under_another_key_does_not_count(tmp_path):
    with RunFolder.open(tmp_path, {}) as folder:
        make(epochs=1, folder=folder.stage("tune", key="a")).fit()
        make(epochs=1, folder=folder.stage("tune", key="b"), evaluate=error).fit()
        assert [line["step"] for line in folder.metrics()] == [5]
        assert "error" in folder.metrics()[0]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    make(epochs=1, folder=tmp_path / "run").fit()
    with pytest.raises(UsageError, match="with seed 0, not 1"):
        make(epochs=1, seed=1, folder=tmp_path / "run").fit()
    with pytest.raises(UsageError, match="Growing"):
        make(epochs=1, callbacks=[Growing()], folder=tmp_path / "run").fit()
    with pytest.raises(FileRefusedError, match=r"of another model; .* do not fit Linear"):
        make(nn.Linear(4, 1), epochs=1, folder=tmp_path / "run").fit()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    make(epochs=1, folder=tmp_path / "run").fit()
    path = next((tmp_path / "run").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileRefusedError, match=r"cut short.* Remove it to begin"):
        make(epochs=1, folder=tmp_path / "run").fit()


class Signal(Callback):
    """Send this process a signal in the middle of the step after ``step``."""

    def __init__(self, step: int, number: int, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_batch(self, run, batch):
        for _ in range(self.times if run.step == self.step else 0):
            os.kill(os.getpid(), self.number)
        return batch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_one_signal_finishes_the_step_saves_and_can_be_resumed(tmp_path, number):
    before = signal.getsignal(number)
    whole = make(epochs=3)
    whole.fit()
    options = {"epochs": 3, "folder": tmp_path / "run"}
    told = "after step 7; the last good checkpoint is of step 7"
    with pytest.raises(InterruptedRunError, match=told) as caught:
        make(callbacks=[Signal(6, number)], **options).fit()
    assert "\n" not in str(caught.value)
    assert signal.getsignal(number) is before
    resumed = make(callbacks=[Signal(-1, number)], **options)
    assert resumed.fit().steps == 15
    assert torch.equal(weights(whole), weights(resumed))


def test_two_signals_stop_at_once_and_the_last_checkpoint_is_good(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "SHARE", 0)
    diary: list[str] = []
    callbacks = [Signal(3, signal.SIGINT, times=2), Diary("a", diary)]
    with pytest.raises(InterruptedRunError, match="at once"):
        make(epochs=3, callbacks=callbacks, folder=tmp_path / "run").fit(checkpoint_seconds=0)
    assert diary[-2:] == ["a step 3", "a fit end"]
    state = checkpoint.load(tmp_path / "run" / "train-train.checkpoint.safetensors")
    assert state["run"]["step"] == 3


def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path):
    def evaluate(model):
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    with pytest.raises(InterruptedRunError, match="done and saved"):
        make(epochs=1, evaluate=evaluate, folder=tmp_path / "run").fit()
    assert make(epochs=1, folder=tmp_path / "run").fit().steps == 5


def test_interrupted_without_a_folder_says_that_nothing_was_saved():
    with pytest.raises(InterruptedRunError, match="nothing was saved"):
        make(epochs=3, callbacks=[Signal(0, signal.SIGINT)]).fit()


class Poison(Callback):
    def __init__(self, step: int, value: float, *, gradient: bool = False) -> None:
        self.step, self.value, self.gradient = step, value, gradient

    def on_loss(self, run, outputs, batch, loss):
        if run.step != self.step:
            return loss
        # The square root has the slope infinity at 0, times the value.
        return (
            loss + self.value * (outputs - outputs).abs().sqrt().sum() if self.gradient else loss * self.value
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_step_and_last_good_checkpoint(tmp_path, monkeypatch, value):
    monkeypatch.setattr(keeper, "SHARE", 0)
    trainer = make(epochs=3, callbacks=[Poison(7, value)], folder=tmp_path / "run")
    with pytest.raises(DivergedError, match=r"loss became (nan|inf) at step 8; .* step 7") as caught:
        trainer.fit(checkpoint_seconds=0)
    assert "\n" not in str(caught.value)
    state = checkpoint.load(tmp_path / "run" / "train-train.checkpoint.safetensors")
    assert state["run"]["step"] == 7
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    assert torch.isfinite(weights(trainer)).all()


def test_a_loss_that_is_no_number_at_step_one_says_that_nothing_was_saved():
    with pytest.raises(DivergedError, match="at step 1; nothing was saved"):
        make(epochs=3, callbacks=[Poison(0, math.nan)]).fit()


def test_exploding_gradients_stop_before_the_weights_are_touched():
    trainer = make(epochs=3, callbacks=[Poison(0, 1.0, gradient=True)])
    before = weights(trainer)
    with pytest.raises(DivergedError, match="gradients became"):
        trainer.fit()
    assert torch.equal(weights(trainer), before)


def test_weights_that_overflow_are_not_saved_over_a_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "SHARE", 0)

    class Overflow(Callback):
        def on_step_end(self, run):
            if run.step == 4:
                run.model[0].weight.data[0, 0] = math.inf

    with pytest.raises(
        DivergedError, match=r"'0.weight' after step 4; the last good checkpoint is of step 3"
    ):
        make(epochs=3, callbacks=[Overflow()], folder=tmp_path / "run").fit(checkpoint_seconds=0)


def test_gradients_that_stay_zero_stop_the_training():
    class Nothing(Callback):
        def on_loss(self, run, outputs, batch, loss):
            return 0 * loss

    with pytest.raises(DivergedError, match="zero for 50 steps, up to step 50"):
        make(epochs=30, callbacks=[Nothing()]).fit()


def test_our_batches_keep_their_positions_and_plain_ones_have_none():
    class Note(Callback):
        def __init__(self):
            self.indices = []

        def on_batch(self, run, batch):
            self.indices += batch.indices.tolist()
            return batch

    note = Note()
    batches = [Batch(INPUTS[:2], TARGETS[:2], torch.tensor([7, 3])), (INPUTS[2:4], TARGETS[2:4])]
    make(epochs=1, loader=batches, callbacks=[note]).fit()
    assert note.indices == [7, 3, -1, -1]


@pytest.mark.parametrize(
    "item",
    [INPUTS, (INPUTS,), {"x": INPUTS}, (INPUTS, "y"), (INPUTS, TARGETS[:3])],
    ids=lambda i: type(i).__name__,
)
def test_other_batches_are_refused(item):
    with pytest.raises(UsageError, match="`loader`"):
        make(epochs=1, loader=[item]).fit()


def test_an_empty_loader_is_refused():
    with pytest.raises(UsageError, match="empty"):
        make(steps=3, loader=[]).fit()


def test_a_loader_without_a_length_works_with_every_budget(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return zip(INPUTS, TARGETS)

    for budget, steps in (({"epochs": 2}, 10), ({"steps": 7}, 7)):
        assert make(loader=DataLoader(Stream(), batch_size=5), **budget).fit().steps == steps


def test_images_lie_in_memory_as_the_model_does():
    class Note(Callback):
        def on_batch(self, run, batch):
            self.last = batch.inputs.is_contiguous(memory_format=torch.channels_last)
            return batch

    images = [(torch.randn(2, 3, 5, 5), torch.randn(2, 4, 3, 3))]
    for layout in (torch.channels_last, torch.contiguous_format):
        note, model = Note(), nn.Conv2d(3, 4, 3).to(memory_format=layout)
        make(model, loader=images, steps=1, callbacks=[note]).fit()
        assert note.last == (layout is torch.channels_last)
        assert model.weight.is_contiguous(memory_format=layout)


def test_bfloat16_computes_so_and_leaves_no_trace_on_the_model():
    class Note(Callback):
        def on_loss(self, run, outputs, batch, loss):
            self.dtype, self.inner = outputs.dtype, run.model[0](batch.inputs).dtype
            return loss

    note = Note()
    trainer = make(steps=2, callbacks=[note])
    forward = trainer.model.forward.__func__
    trainer.fit(precision="bf16")
    assert note.dtype == torch.float32
    plain = make(steps=2)
    plain.fit(precision="no")
    assert not torch.equal(weights(trainer), weights(plain))
    assert trainer.model.forward.__func__ is forward
    assert not [name for name in vars(trainer.model) if "accelerate" in name or name == "_original_forward"]
    with pytest.raises(UsageError, match="precision"):
        make(steps=1).fit(precision="int3")


def test_model_and_optimizer_can_be_trained_again():
    trainer = make(epochs=1)
    trainer.fit()
    first = weights(trainer)
    again = Trainer(trainer.model, trainer.criterion, trainer.optimizer, trainer.loader, epochs=1)
    assert again.fit().steps == 5
    assert not torch.equal(weights(again), first)


def test_killed_trainings_end_like_whole_ones(tmp_path):
    script = HERE / "killed_training.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for found in json.loads(done.stdout).values():
        assert found["killed by time"] == found["whole"]
        assert found["killed while writing"] == found["whole"]
        assert found["kills"][1] >= 5
    assert sum(sum(found["kills"]) for found in json.loads(done.stdout).values()) >= 20


def test_two_processes_train_to_the_same_weights_as_one(tmp_path):
    script = HERE / "several_processes.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    two = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [sys.executable, "-m", "accelerate.commands.launch", *two.split(), "--main_process_port", "0"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [*command, script, tmp_path / "two"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    runpy.run_path(str(script))["main"](tmp_path / "one")
    answers = [tmp_path / "one" / "0.json", tmp_path / "two" / "0.json", tmp_path / "two" / "1.json"]
    one, two, other = (json.loads(answer.read_text()) for answer in answers)
    for name in ("weights", "accumulated", "resumed"):
        assert two[name] == pytest.approx(one[name], abs=1e-6)
    for left, right in zip(one["history"] + one["resumed history"], two["history"] + two["resumed history"]):
        assert right == pytest.approx(left, rel=1e-5)
    assert (one["sizes"], two["sizes"]) == ([5] * 6 + [1], [3] * 6 + [1])
    assert (one["stopped"], two["stopped"]) == (14, 3)
    assert one["lines"] == two["lines"]
    assert two["normalised"] == other["normalised"]  # batch statistics too
