"""Print the source of a function, from its bytecode, with what is proved about it.

TARGET is module:function, for example json.decoder:JSONDecoder.decode. The module is imported.
"""

from typing import Annotated, Any

import typer

from torchard.cli.console import Facts, emit, print_line
from torchard.core.errors import UsageError


def command(
    target: Annotated[str, typer.Argument(help="package.module:function, dots for what lies in classes.")],
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless the source is proved equal.")] = False,
    strategy: Annotated[str, typer.Option(help="auto, structured or dispatch.")] = "auto",
) -> int:
    from torchard.compiler.decompile import decompile_code

    found = _resolve(target)
    try:
        result = decompile_code(found, strategy=strategy)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{target}: {error}") from None
    facts = {
        "target": target,
        "source": result.source,
        "strategy": result.strategy,
        "equivalence": result.equivalence,
        "reasons": list(result.unsupported),
    }
    emit(facts, _show)
    return 1 if check and result.equivalence == "unverified" else 0


def _show(facts: Facts) -> None:
    print_line(f"# {facts['target']}: {facts['strategy']}, {facts['equivalence']}")
    typer.echo(facts["source"], nl=False)  # as it is: source is not to be wrapped


def _resolve(target: str) -> Any:
    import importlib

    module, _, path = target.partition(":")
    if not module or not path:
        raise UsageError(f"target {target!r} is not of the form package.module:function")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"target {target!r}: {error}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"target {target!r}: {name!r} is not there")
        found = getattr(found, name)
    return found
