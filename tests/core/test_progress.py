"""core.progress: one bar on a terminal, nothing anywhere else."""

import pytest

from torchard.core.progress import progress_bar


def test_nothing_is_written_where_there_is_no_terminal(capsys):
    with progress_bar("training") as show:
        show(0.5, "step 1")
    found = capsys.readouterr()
    assert found.out == found.err == ""


def test_on_a_terminal_the_bar_says_what_it_is_told(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("training [red]", shown=True) as show:
        show(0.5, "[bold]step 7")
        show(1.5, "[bold]step 8")
    written = capsys.readouterr().err
    assert "training [red]" in written  # markup in names is text
    assert "[bold]step" in written


def test_a_closed_standard_error_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with progress_bar("training") as show:
        show(1.0, "")


def test_an_error_inside_passes(capsys):
    with pytest.raises(KeyError), progress_bar("training", shown=True):
        raise KeyError
