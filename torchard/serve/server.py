"""Run the application on a port of this computer until it is stopped."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchard.core.errors import MissingExtraError, UsageError
from torchard.export.runs import open_run
from torchard.export.standalone import OnnxModel


@dataclass(frozen=True)
class Server:
    """A bound port and the model behind it; :meth:`run` answers until Ctrl-C."""

    model: OnnxModel
    socket: socket.socket
    answer: Callable[[list[socket.socket]], None]

    @property
    def url(self) -> str:
        """Where to point a browser on this computer."""
        host, port = self.socket.getsockname()[:2]
        name = "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    @property
    def reaches_out(self) -> bool:
        """Whether other computers can ask."""
        return not ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    def run(self) -> None:
        """Answer requests until interrupted, then let the open ones finish and give the port back."""
        with self.socket:
            self.answer([self.socket])


def open_server(
    run: Path, *, host: str = "127.0.0.1", port: int = 8000, allow_hosts: Sequence[str] = ()
) -> Server:
    """Return a server for the exported model of the run folder `run`, its port bound, not yet answering.

    It answers requests for plain addresses, ``localhost``, `host` and the names in `allow_hosts`.

    Raises:
        MissingExtraError: without the extra ``serve``.
        UsageError: if there is no exported model, or host and port cannot be used.
        FileRefusedError: if the model is damaged or a stranger's that reaches for other files.
    """
    uvicorn, create_app = _libraries()
    model = open_run(run)
    app = create_app(model, hosts=frozenset({host, *allow_hosts}))
    # Idle connections are dropped, and there are never more than a hundred.
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=100,
        timeout_keep_alive=5,
    )
    return Server(model, bind(host, port), lambda sockets: uvicorn.Server(config).run(sockets=sockets))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket at `host` and `port`; port 0 takes a free one.

    Raises:
        UsageError: if the port is taken or may not be used, or the host is not this computer.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port. Choose one from 1024 to 65535, or 0 for any free one.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host!r} is unknown. Leave it out for 127.0.0.1, this computer.") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # whoever asks as soon as the address is printed waits instead of being refused
    except OSError as error:
        bound.close()
        raise UsageError(f"{host}:{port} cannot be used: {error.strerror}. Choose another --port.") from None
    return bound


def _libraries() -> tuple[Any, Any]:
    try:
        import uvicorn

        from torchard.serve.app import create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Serving needs {error.name}, which is not installed: pip install 'torchard[serve]'"
        ) from None
    return uvicorn, create_app
