import asyncio

import pytest

from tests.serve.test_app import ask
from torchard.serve.app import create_app
from torchard.serve.guard import Guard, refusal

OURS = frozenset({"cells.example"})


ANSWERED = """
    127.0.0.1   127.0.0.1:8000   localhost   LOCALHOST:8000   [::1]   [::1]:8000   192.168.1.7:80
    cells.example:8000
"""
NOT_ANSWERED = """
    evil.example   evil.example:127   127.0.0.1.evil.example   localhost.evil.example   cells.example.evil.org
    [::1   [evil]
    localhost@evil.example   evil.example#localhost   127.0.0.1\\@evil.example   0x7f.1   2130706433
"""


@pytest.mark.parametrize("host", ANSWERED.split())
def test_addresses_localhost_and_named_hosts_are_answered(host):
    assert refusal({b"host": host.encode()}, OURS) is None


@pytest.mark.parametrize("host", ["", *NOT_ANSWERED.split()])
def test_names_that_a_stranger_could_point_here_are_not(host):
    status, _ = refusal({b"host": host.encode()}, OURS) or (None, "")
    assert status == 421


def test_a_request_without_a_host_is_refused():
    assert refusal({}, OURS)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"http://127.0.0.1:8000", None),
        (b"http://127.0.0.1:9000", 403),
        (b"https://evil.example", 403),
        (b"null", 403),
        (b"http://[", 403),
        (b"http://localhost:8000", 403),
    ],
)
def test_only_our_own_pages_may_ask(origin, status):
    found = refusal({b"host": b"127.0.0.1:8000", b"origin": origin}, OURS)
    assert (found and found[0]) == status


def test_the_whole_application_is_guarded(model):
    app = create_app(model)
    for path in ("/", "/model", "/openapi.json", "/nowhere"):
        assert ask(app, "GET", path, host="rebound.example").status_code == 421
    assert ask(app, "POST", "/predict", headers={"origin": "https://evil.example"}).status_code == 403


def test_web_sockets_are_closed():
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    async def never(scope, receive, send):
        raise AssertionError

    asyncio.run(Guard(never)({"type": "websocket", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
