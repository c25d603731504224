"""Answer over HTTP, on this computer, with a run's exported model.

There is a page to drop images on, and POST /predict for programs. Nothing but this computer can reach it
unless --host says so. Ctrl-C ends it.
"""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from torchard.cli.console import Facts, emit, print_line, progress


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, or an exported .onnx file.")],
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host name that requests may be addressed to.")
    ] = None,
) -> int:
    from torchard.serve.server import open_server

    server = open_server(run, host=host, port=port, allow_hosts=allow_host or ())
    if server.reaches_out:
        progress().print("Other computers can reach this server; it asks nobody for a password.")
    emit({"url": server.url, "predict": f"{server.url}predict", "classes": server.model.classes}, _show)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it, with or without one
        server.run()
    progress().print("Stopped.")
    return 0


def _show(facts: Facts) -> None:
    print_line(f"Page: {facts['url']}   Ctrl-C ends it.")
    print_line(f"Or:   curl --data-binary @photo.jpg {facts['predict']}")
