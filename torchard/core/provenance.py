"""Where a result comes from: the command, the machine and the versions it was made with."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def command() -> list[str]:
    """Return what was typed to start this process: ``torchard …``, ``python -m …`` or ``python file …``."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = Path(sys.argv[0]).name
    if main is not None:
        start = ["python", "-m", main.name.removesuffix(".__main__")]
    elif program.endswith(".py") or program.startswith("-"):
        start = ["python", program]
    else:
        start = [program]
    return [*(["torchard"] if start[-1] == "torchard" else start), *sys.argv[1:]]


def machine() -> dict[str, Any]:
    """Return system, processor, the cores this process may use, and torch's threads, as JSON values."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of Python and of each package; the packages must be installed."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _processor() -> str:
    """The processor's name; Python itself knows it on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
