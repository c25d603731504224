"""What every test stands on: the same seeds, one thread a worker, no network, a home of its own."""

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from torchard.core.memory import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

# Deadlines measure the machine, not the code; the same examples every time make a failure repeatable.
hypothesis.settings.register_profile("torchard", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("torchard")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
keep_freed_memory()  # as the command line does


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same global random state, also where the code under test uses none."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries draw from it)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the run a home of its own, so that caches and settings of the person running it play no part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"):
            patch.delenv(name, raising=False)
        # xdist sets COLUMNS to the width of its own terminal.
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        # Only matplotlib's list of fonts is kept between runs: it takes seconds to build.
        patch.setenv("MPLCONFIGDIR", str(ROOT / ".cache" / "matplotlib"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Fail every attempt to reach another machine, or to look one up."""
    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    real_lookup = socket.getaddrinfo

    def guarded(name: str):
        def attempt(self: socket.socket, address: object) -> object:
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
                pytest.fail(f"a connection to {address} was attempted; tests and torchard work offline")
            return real[name](self, address)

        return attempt

    def lookup(host: object, *arguments: object, **options: object) -> object:
        if host is not None and str(host) not in LOOPBACK:
            pytest.fail(f"the name {host!r} was looked up; tests and torchard work offline")
        return real_lookup(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(socket.socket, name, guarded(name))
        patch.setattr(socket, "getaddrinfo", lookup)
        yield
