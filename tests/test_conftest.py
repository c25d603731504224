"""The guards that all other tests rely on do guard."""

import os
import random
import socket
from pathlib import Path

import pytest
import torch


def test_a_connection_to_another_machine_fails():
    with socket.socket() as attempt, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        attempt.connect(("192.0.2.1", 80))


def test_a_name_lookup_fails():
    with pytest.raises(pytest.fail.Exception, match=r"example\.org"):
        socket.create_connection(("example.org", 80))


def test_loopback_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


@pytest.mark.parametrize("_", range(2))
def test_every_test_starts_from_one_seed(_):
    assert random.random() == random.Random(0).random()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_home_is_not_the_users():
    assert Path.home() == Path(os.environ["HOME"])
    assert "pytest" in str(Path.home())
