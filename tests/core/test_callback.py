"""core.callback: a callback that overrides nothing changes nothing."""

import torch
from torch import nn

from torchard.core.callback import Callback, TrainingRun
from torchard.core.data import Batch


def run() -> TrainingRun:
    model = nn.Linear(1, 1)
    return TrainingRun(
        model, torch.optim.SGD(model.parameters(), lr=1.0), torch.Generator(), lambda **_: None
    )


def test_the_plain_callback_hands_on_what_it_gets():
    callback, batch, loss = Callback(), Batch(torch.ones(1), torch.ones(1), torch.zeros(1)), torch.ones(())
    assert callback.on_batch(run(), batch) is batch
    assert callback.on_loss(run(), None, batch, loss) is loss
    assert callback.state_dict() == {}


def test_the_first_reason_to_stop_stays():
    training = run()
    training.stop("first")
    training.stop("second")
    assert training.stopped_by == "first"


def test_the_run_goes_on_from_its_state():
    first, second = run(), run()
    first.step, first.epoch, first.fraction = 3, 1, 0.25
    first.stop("enough")
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"step": 3, "epoch": 1, "fraction": 0.25, "stopped_by": "enough"}
