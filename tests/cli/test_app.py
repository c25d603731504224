"""The frame: exit codes, one line for an error, --json and --debug everywhere, hostile surroundings."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer

from torchard.cli import app, console, main
from torchard.cli.console import emit, print_line, progress
from torchard.core import errors
from torchard.core.method import catalogue


@pytest.fixture
def run_verb(monkeypatch, tmp_path, capsys):
    """Run ``torchard probe ARGUMENTS`` where probe is the given function; return (code, stdout, stderr)."""

    def run(command: Callable[..., object], *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "probe.py").write_text('"""Probe the frame."""\ndef command(): ...\n')
        module = type(sys)("probe_package.probe", "Probe the frame.")
        module.command = command
        monkeypatch.setitem(sys.modules, "probe_package", type(sys)("probe_package"))
        monkeypatch.setitem(sys.modules, "probe_package.probe", module)
        monkeypatch.setattr(app, "application", lambda: app.Verbs("torchard", tmp_path, "probe_package"))
        code = main(["probe", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def torchard(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    clean = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([sys.executable, "-m", "torchard", *arguments], capture_output=True, env=clean)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("`ratio=2` is above 1"), 2),
        (errors.DataError("one class only"), 4),
        (errors.FileRefusedError("damaged"), 1),
        (errors.MissingExtraError("install it"), 1),
        (errors.RunLockedError("pid 7"), 1),
        (errors.DivergedError("NaN"), 1),
        (errors.ExportMismatchError("differs"), 1),
        (errors.InterruptedRunError("saved at step 3"), 130),
    ],
)
def test_our_errors_are_one_line_with_their_exit_code(run_verb, error, code):
    assert run_verb(raising(error)) == (code, "", f"error: {error}\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("a\n  b"), 1, "error: RuntimeError: a b (--debug shows where)\n"),
        (OSError(28, "No space left on device", "x.bin"), 1, "error: x.bin: No space left on device\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; run the same command again to go on\n"),
        (click.Abort(), 130, "error: interrupted; run the same command again to go on\n"),
        (errors.DataError("class \x1b[31m\n<b>"), 4, "error: class \\x1b[31m <b>\n"),
        (click.BadParameter("no"), 2, "error: Invalid value: no. See 'torchard probe --help'.\n"),
    ],
)
def test_other_errors_are_one_line_too(run_verb, error, code, line):
    assert run_verb(raising(error)) == (code, "", line)


def test_every_error_class_is_covered_above():
    own = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert len(own) == 8, "a new error class needs its row in the first table of this file"
    assert {vars(errors)[name].exit_code for name in own} <= {1, 2, 4, 130}


def test_debug_shows_the_traceback(run_verb):
    code, _, err = run_verb(raising(errors.DataError("bad")), "--debug")
    assert code == 4
    assert "Traceback" in err
    assert err.endswith("error: bad\n")


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_verb_returns_its_exit_code_or_nothing(run_verb, result, code):
    assert run_verb(lambda: result)[0] == code


def test_json_leaves_one_value_on_stdout_and_the_rest_on_stderr(run_verb):
    def command() -> None:
        print("a library speaks")
        print_line("a verb speaks")
        progress().print("working")
        emit({"x": 1}, lambda facts: print_line(f"x is {facts['x']}"))

    code, out, err = run_verb(command, "--json")
    assert (code, json.loads(out)) == (0, {"x": 1})
    assert err == "a library speaks\na verb speaks\nworking\n"
    assert run_verb(command)[1:] == ("a library speaks\na verb speaks\nx is 1\n", "working\n")


def test_shared_options_may_stand_before_the_verb(run_verb, capsys):
    run_verb(lambda: None)
    assert main(["--json", "--debug", "probe"]) == 0


def test_warnings_of_libraries_are_heard_with_debug_only(run_verb):
    def command() -> None:
        warnings.warn("look out", stacklevel=1)

    assert run_verb(command) == (0, "", "")
    with pytest.warns(UserWarning, match="look out"):
        run_verb(command, "--debug")


def test_sigterm_ends_a_verb_as_an_interrupt_does(run_verb):
    def command() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert run_verb(command)[0] == 130
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("methdos", "No such command 'methdos'. Did you mean 'methods'? See 'torchard --help'."),
        (
            "methods --jsn",
            "No such option '--jsn'. Did you mean '--json'? See 'torchard methods --help'.",
        ),
        ("methods a b", "Got unexpected extra argument (b). See 'torchard methods --help'."),
    ],
)
def test_wrong_use_is_one_line_with_a_way_out(capsys, arguments, line):
    assert main(arguments.split()) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_help_says_defaults_and_what_is_required(run_verb):
    def command(
        folder: Annotated[str, typer.Argument(help="Where [red] to look.")],
        *,
        least: Annotated[int, typer.Option(help="How many.")] = 3,
    ) -> None: ...

    lines = [" ".join(line.split()) for line in run_verb(command, "--help")[1].splitlines()]
    assert "FOLDER Where [red] to look. [required]" in lines
    assert "--least INTEGER How many. [default: 3]" in lines


def test_no_arguments_is_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == out
    assert "methods " in out
    assert "Exit codes: 0 done" in out


def test_every_verb_says_what_it_does_and_takes_the_shared_options(capsys):
    group = app.application()
    for name, verb in group.verbs.items():
        assert verb.summary.endswith("."), f"{verb.module} needs a docstring whose first line is a sentence"
        assert main([name, "--help"]) == 0
        told = capsys.readouterr().out
        assert {"--json", "--debug"} <= set(told.split())
        assert "\\" not in told


def test_methods_tells_what_the_catalogue_holds(capsys):
    assert main(["methods", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["methods"]
    assert [row["method"] for row in told] == [entry.path for entry in catalogue()]


def test_methods_refuses_what_it_cannot_find(capsys):
    assert main(["methods", "zzz"]) == 2
    assert capsys.readouterr().err.startswith("error: no method matches 'zzz'; there are: ")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"COLUMNS": "40", "TERM": "dumb"},
        {"COLUMNS": "1"},
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
def test_it_works_in_poor_surroundings(environment):
    # No HOME and no TERM in any of them.
    for arguments in (["--help"], ["methods"], ["methods", "größe\x1b[31m🙂"]):
        done = torchard(*arguments, **environment)
        assert done.returncode == (2 if len(arguments) == 2 else 0)
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("verb", ["--help", "methods"])
def test_a_closed_pipe_is_quiet(verb, environment):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-m", "torchard", verb]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_example_in_the_console_docstring_works(run_verb, tmp_path):
    example = textwrap.dedent(console.__doc__.split("::\n", 1)[1].split("\n``--json``")[0])
    names = {}
    exec(compile(example, "<example>", "exec"), names)
    for name in ("a.csv", "b.[red]", "c.[red]"):
        (tmp_path / name).touch()
    code, out, _ = run_verb(names["command"], str(tmp_path), "--least", "2")
    assert code == 0
    assert [line.split() for line in out.splitlines()[:2]] == [["kind", "files"], [".[red]", "2"]]
    assert run_verb(names["command"], str(tmp_path), "--least", "9")[0] == 3


def test_the_installed_script_is_the_same_program():
    script = Path(sys.executable).with_name("torchard")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == torchard("--version").stdout.decode()
