"""The command line's frame: find the verb, run it, turn whatever happens into one line and an exit code.

Exit codes: 0 done; 1 failed; 2 wrong use; 3 done, but a target was out of reach and the nearest result was
kept; 4 data refused; 130 interrupted and resumable; 141 the reader of our output went away.
"""

import contextlib
import difflib
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import typer
from typer.core import TyperCommand

import torchard
from torchard.cli.console import Invocation, safe
from torchard.cli.verbs import Verb, verbs
from torchard.core.memory import keep_freed_memory

EPILOG = (
    "Every command takes --json and --debug. Exit codes: 0 done, 1 failed, 2 wrong use, "
    "3 done but a target was out of reach, 4 data refused, 130 interrupted and resumable."
)
CONTEXT = {"help_option_names": ["-h", "--help"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``torchard`` with ``arguments`` (default: those of the process) and return the exit code.

    Errors become one line on stderr; a traceback is printed with ``--debug`` only.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _write_anything()
    keep_freed_memory()
    invocation = Invocation(write=sys.stdout.write)
    try:
        with _quiet_libraries(), _sigterm_interrupts():
            code = _invoke(arguments, invocation)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        _forget_stdout()
        return 141
    except (Exception, KeyboardInterrupt) as error:
        return _explain(error, debug=invocation.debug)


class Verbs(click.Group):
    """The verbs of one folder. Listing them imports none; running one imports that one."""

    def __init__(self, name: str, folder: Path, package: str, **options: Any) -> None:
        super().__init__(name, context_settings=CONTEXT, params=_shared_options(), **options)
        self.verbs = verbs(folder, package)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs, sorted."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import the verb ``cmd_name`` and return it.

        Raises:
            click.UsageError: if there is no such verb; the nearest name is said.
        """
        verb = self.verbs.get(cmd_name)
        if verb is None:
            near = difflib.get_close_matches(cmd_name, self.verbs, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(self.verbs)}."
            raise click.UsageError(f"No such command {cmd_name!r}.{hint}", ctx)
        if verb.folder is not None:
            return Verbs(verb.name, verb.folder, verb.module, help=verb.summary)
        return _load(verb)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line a verb, from the syntax tree of its file."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.summary) for verb in self.verbs.values()])


class Documented(TyperCommand):
    """A verb whose help is plain text: typer escapes brackets for rich even where rich prints nothing."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options."""
        for heading, kind in (("Arguments", "argument"), ("Options", "option")):
            records = [p.get_help_record(ctx) for p in self.get_params(ctx) if p.param_type_name == kind]
            rows = [(name, text.replace("\\[", "[")) for name, text in filter(None, records)]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def application() -> Verbs:
    """Return the whole command line as one click group."""
    group = Verbs("torchard", Path(__file__).parent, "torchard.cli", help=torchard.__doc__, epilog=EPILOG)
    return click.version_option(torchard.__version__, message="torchard %(version)s")(group)


def _invoke(arguments: list[str], invocation: Invocation) -> int:
    # click's own `main` is not used: it would print usage blocks, swallow EPIPE from any socket, and turn an
    # interrupt's message into "Aborted!".
    try:
        with application().make_context("torchard", arguments, obj=invocation) as context:
            result = context.command.invoke(context)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message())
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return result if isinstance(result, int) else 0


def _load(verb: Verb) -> click.Command:
    module = importlib.import_module(verb.module)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(verb.name, cls=Documented, help=module.__doc__, context_settings=CONTEXT)(module.command)
    command = typer.main.get_command(app)
    command.params += _shared_options()
    command.callback = _keep_stdout_for_json(command.callback or module.command)
    return command


def _shared_options() -> list[click.Parameter]:
    def remember(context: click.Context, option: click.Parameter, value: bool) -> None:
        invocation = context.find_object(Invocation)
        if value and invocation is not None and option.name is not None:
            setattr(invocation, option.name, True)

    def flag(name: str, text: str) -> click.Option:
        return click.Option(
            [name], is_flag=True, is_eager=True, expose_value=False, callback=remember, help=text
        )

    return [
        flag("--json", "Print the facts as JSON and nothing else."),
        flag("--debug", "Show tracebacks and the warnings of libraries."),
    ]


def _keep_stdout_for_json(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Under ``--json``, send what a verb or a library prints to stderr: stdout holds one JSON value."""

    def run(**values: Any) -> Any:
        invocation = click.get_current_context().find_object(Invocation) or Invocation()
        if invocation.debug:
            warnings.simplefilter("default")
        redirect = contextlib.redirect_stdout(sys.stderr) if invocation.json else contextlib.nullcontext()
        with redirect:
            return callback(**values)

    return run


def _explain(error: BaseException, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    code, line = _verdict(error, debug=debug)
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {safe(line)}", file=sys.stderr, flush=True)
    return code


def _verdict(error: BaseException, *, debug: bool) -> tuple[int, str]:
    text = " ".join(str(error).split())
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        way_out = f". See '{context.command_path} --help'." if context is not None else ""
        message = " ".join(error.format_message().split())
        return error.exit_code, (message.rstrip(".") + way_out).replace("?.", "?")
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return 130, text or "interrupted; run the same command again to go on"
    if hasattr(error, "exit_code"):
        return error.exit_code, text
    if isinstance(error, OSError) and error.strerror:
        return 1, f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return 1, f"{type(error).__name__}: {text}" + ("" if debug else " (--debug shows where)")


def _write_anything() -> None:
    """Let names that the terminal's encoding cannot write appear escaped, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let a scheduler's SIGTERM end a command as Ctrl-C does: locks are given back and state is saved."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there keeps the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _forget_stdout() -> None:
    """Point stdout at nothing, or the interpreter would complain again when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
