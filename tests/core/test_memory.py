"""Memory that tensors gave back is kept, and used again without faults."""

import ctypes
import platform
import subprocess
import sys

import pytest

from torchard.core.memory import keep_freed_memory

# Prints how many pages had to be fetched for five rounds of four tensors of some 36 MB, after five others.
FAULTS = """
import resource, sys, torch
from torchard.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill():
    return len([torch.ones(9_000_000 + 1000 * number) for number in range(4)])
for _ in range(5):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_was_freed_is_used_again_without_faults():
    assert faults("keep") < 0.1 * faults("leave")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_such_a_library_nothing_happens(monkeypatch, error):
    def missing(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False
