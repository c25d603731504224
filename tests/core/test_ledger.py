"""core.ledger: every line once."""

import pytest

from torchard.core.ledger import Ledger
from torchard.core.run import RunFolder


def test_losses_are_averaged_between_evaluations():
    ledger = Ledger(None)
    for loss in (1.0, 2.0, 6.0):
        ledger.add(loss)
    ledger.evaluated({"accuracy": 0.5}, epoch=1, step=3, lr=0.1)
    ledger.evaluated({}, epoch=1, step=3, lr=0.1)
    assert ledger.history == [
        {"epoch": 1, "step": 3, "loss": 3.0, "accuracy": 0.5},
        {"epoch": 1, "step": 3, "loss": None},
    ]


@pytest.mark.parametrize("name", ["loss", "step", "epoch", "lr", "time", "stage", "phase"])
def test_names_of_its_own_are_refused(name):
    with pytest.raises(ValueError, match=f"validation_{name}"):
        Ledger(None).evaluated({name: 1}, epoch=1, step=1, lr=0.1)


def test_a_restored_ledger_drops_the_lines_logged_since(tmp_path):
    with RunFolder.open(tmp_path, {}) as folder:
        first = Ledger(folder.stage("tune"))
        first.log(step=1)
        first.add(4.0)
        state = first.state_dict()
        first.log(step=2)
        first.log(step=3)
        second = Ledger(folder.stage("tune"))
        second.load_state_dict(state)
        second.start()
        second.log(step=2)
        second.add(2.0)
        second.evaluated({}, epoch=1, step=2, lr=0.1)
        assert [line["step"] for line in folder.metrics()] == [1, 2, 2]
        assert second.history[0]["loss"] == 3.0
        Ledger(folder.stage("tune")).start()
        assert folder.metrics() == []
