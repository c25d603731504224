"""Training on a CPU without giving memory back between steps."""

import ctypes

_MMAP_MAX = -4  # mallopt's numbers, from glibc's malloc.h
_TRIM_THRESHOLD = -1
_NEVER = 2**31 - 1  # bytes that must be free at the heap's end before any go back: the largest int


def keep_freed_memory() -> bool:
    """Let this process use the memory of freed tensors again instead of returning it; say if that worked.

    By default glibc maps each large tensor anew and unmaps it when it is freed, so that every activation of
    every step is paid for with page faults: about a third of a training step on a virtual machine
    (results/freed_memory.json). Afterwards the process stays as large as it once was.

    It holds for the whole process and until its end, so that a program decides it, not a library: torchard's
    commands do. Without glibc (macOS, Windows, musl) nothing happens and False comes back. Memory of a GPU is
    not concerned: torch keeps that anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no such library; Windows wants a name
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
