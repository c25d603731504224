"""Who may ask: requests addressed to this computer, from its own pages or from programs.

A web page from elsewhere can send a browser to a loopback port. With DNS rebinding it does so under a name of
its own, which points here for a moment; so a host name counts only if it is known, while a plain address,
which no name server can bend, always does.
"""

import ipaddress
import json
from collections.abc import MutableMapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Guard:
    """ASGI middleware that lets pass what :func:`refusal` has nothing against, and adds safe headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: MutableMapping[str, object]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *ALWAYS.items()]  # type: ignore[misc]
            await send(message)

        refused = refusal(dict(scope["headers"]), self.hosts)
        if refused is None:
            await self.app(scope, receive, with_headers)
        else:
            await _answer(with_headers, *refused)


def refusal(headers: dict[bytes, bytes], hosts: frozenset[str]) -> tuple[int, str] | None:
    """Return why a request with these headers is not answered (status, reason), or None if it is."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = _name(host)
    if name is None or not (name == "localhost" or name in hosts or _is_address(name)):
        return 421, "this host name is not served here; see torchard serve --allow-host"
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if origin and origin.partition("://")[2] != host:
        return 403, "requests from the pages of other sites are not answered"
    return None


def _name(host: str) -> str | None:
    """The host without its port, or None if it is no host at all."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
