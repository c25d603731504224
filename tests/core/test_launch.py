"""core.launch: one precision a fit, one process told when several were wanted, nothing left on the model."""

import contextlib
from pathlib import Path

import pytest
from torch import nn

from torchard.core.errors import RunLockedError, UsageError
from torchard.core.launch import accelerator_for, mean_over_processes, stage_for, unprepare
from torchard.core.run import RunFolder


def test_each_fit_has_its_own_precision(monkeypatch):
    for precision in ("no", "bf16", "no"):
        assert accelerator_for(precision).mixed_precision == precision
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert accelerator_for(None).mixed_precision == "bf16"
    assert accelerator_for("no").mixed_precision == "no"


@pytest.mark.parametrize("precision", ["fp8", "float32", ""][:2])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(UsageError, match="choose no, bf16, fp16"):
        accelerator_for(precision)


def test_several_processes_wanted_and_one_started_is_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    accelerator_for("no")
    monkeypatch.setenv("MASTER_PORT", "29500")  # as `accelerate launch --cpu --num_processes 2` sets both
    with pytest.warns(UserWarning, match="one process only"):
        accelerator_for("no")


def test_unprepare_takes_everything_off():
    accelerator, model = accelerator_for("bf16"), nn.Linear(2, 2)
    before = set(vars(model))
    unprepare(accelerator, model, accelerator.prepare(model))
    assert set(vars(model)) - before <= {"forward"}
    assert model.forward.__func__ is nn.Linear.forward


def test_the_mean_over_one_process_is_exact():
    assert mean_over_processes(accelerator_for("no"), 0.1 + 0.2, 3, True) == [0.1 + 0.2, 3.0, 1.0]


def test_a_path_is_opened_and_closed_with_the_fit(tmp_path):
    accelerator = accelerator_for("no")
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            stage = stage_for(tmp_path / "run", accelerator, stack)
            stage.log(step=1)
            with pytest.raises(RunLockedError):
                RunFolder.open(tmp_path / "run")
    with RunFolder.open(tmp_path / "run") as folder, contextlib.ExitStack() as stack:
        assert len(folder.metrics()) == 2
        assert stage_for(folder, accelerator, stack) == folder.stage("train")
        assert stage_for(folder.stage("tune"), accelerator, stack) == folder.stage("tune")
        assert stage_for(None, accelerator, stack) is None


def test_a_path_that_can_be_no_run_is_told(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("x")
    with contextlib.ExitStack() as stack, pytest.raises(UsageError, match="no torchard run"):
        stage_for(tmp_path, accelerator_for("no"), stack)
