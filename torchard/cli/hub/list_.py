"""List the models of the hub; nothing is downloaded for it.

Without a pattern the packaged models are shown, which load offline.
"""

from typing import Annotated

import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table
from torchard.core.errors import UsageError

SHOWN = 60


def command(
    pattern: Annotated[
        str, typer.Argument(help="A glob over names, such as '*lite*'; a glob of paths for folders.")
    ] = "",
    *,
    source: Annotated[str, typer.Option(help="packaged, timm or folder. Default: all that match.")] = "",
) -> None:
    from torchard import hub

    chosen = source or ("" if pattern else "packaged")
    models = [model.to_json() for model in hub.list_models(pattern or None, chosen or None)]
    if not models:
        raise UsageError(
            f"No model matches {pattern!r}. `torchard hub list --source timm` lists timm's, and "
            "`torchard hub list 'FOLDER/*' --source folder` the models in folders."
        )
    emit({"pattern": pattern, "source": chosen, "models": models}, _show)


def _show(facts: Facts) -> None:
    models = facts["models"]
    print_table(
        [{**model, "height": model["input"]["size"][0]} for model in models[:SHOWN]],
        [
            Column("name", head="model"),
            Column("source"),
            Column("params", unit="M", scale=1e-6, digits=2),
            Column("height", head="input", unit="px"),
            Column("available", head="here"),
        ],
    )
    if len(models) > SHOWN:
        print_line(f"… and {len(models) - SHOWN} more; a pattern such as '*lite*' narrows them.")
    elif facts["source"] == "packaged":
        print_line("More, when online: torchard hub list --source timm   Next: torchard rank DATA")
