import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.serve.test_app import picture
from torchard.core.errors import UsageError
from torchard.serve.server import bind, open_server


def test_a_free_port_on_this_computer_is_taken(run):
    server = open_server(run, port=0)
    with server.socket:
        assert server.url == f"http://127.0.0.1:{server.socket.getsockname()[1]}/"
        assert not server.reaches_out


def test_ports_that_cannot_be_used_are_wrong_use():
    with bind("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="--port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="--port 70000"):
        bind("127.0.0.1", 70_000)


def test_a_host_that_is_no_address_is_wrong_use(monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match="--host 'nowhere'"):
        bind("nowhere", 0)


def test_a_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"torchard\[serve\]"):
        open_server(run, port=0)


@pytest.fixture
def served(run):
    """The command, as a person starts it, without torch; its page's address."""
    program = (
        "import sys; sys.modules['torch'] = None; from torchard.cli import main;"
        f"sys.exit(main(['serve', {str(run)!r}, '--port', '0']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().split()[1]
    finally:
        process.kill()
        process.communicate()


def test_the_command_answers_and_ends_on_interrupt(served):
    process, url = served
    request = urllib.request.Request(f"{url}predict", data=picture(), method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.load(answer)["label"] == "red"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == "Stopped.\n"
