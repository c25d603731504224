"""Say what is installed, what is missing, and how to get it.

Exit code 1 if something that torchard itself needs is missing or too old; missing extras are only shown.
Nothing is contacted over the network.
"""

import os
import platform
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

from torchard.cli.console import Column, Facts, emit, print_line, print_table


def command() -> int:
    import torch

    from torchard import hub

    packages = [_package(need) for need in _requirements(extra="")]
    emit(
        {
            "torchard": metadata.version("torchard"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": str(torch.accelerator.current_accelerator(check_available=True) or "none"),
            "packages": packages,
            "extras": [
                _extra(name) for name in metadata.metadata("torchard").get_all("Provides-Extra") or []
            ],
            "weights": [
                {"model": model.name, "present": model.available, "missing": model.why_not or None}
                for model in hub.list_models(source="packaged")
            ],
        },
        _show,
    )
    return 0 if all(package["fits"] for package in packages) else 1


def _show(facts: Facts) -> None:
    print_line(f"torchard {facts['torchard']}, Python {facts['python']}, {facts['platform']}")
    print_line(f"Threads: {facts['threads']} on {facts['cores']} cores; accelerator: {facts['accelerator']}")
    print_line()
    print_table(facts["packages"], [Column("package"), Column("version"), Column("needs"), Column("fits")])
    print_line()
    print_table(facts["extras"], [Column("extra"), Column("missing"), Column("install", "to get it")])
    print_line()
    print_table(
        facts["weights"], [Column("model", "weights"), Column("present"), Column("missing", "to get them")]
    )


def _extra(name: str) -> Facts:
    missing = [row["package"] for row in map(_package, _requirements(extra=name)) if not row["fits"]]
    return {
        "extra": name,
        "missing": missing,
        "install": f"pip install 'torchard[{name}]'" if missing else None,
    }


def _requirements(extra: str) -> Iterable[Requirement]:
    """What the installed metadata ask for: of torchard itself, or of one extra beyond it."""
    for need in map(Requirement, metadata.requires("torchard") or []):
        always, here = (need.marker is None or need.marker.evaluate({"extra": name}) for name in ("", extra))
        if here and always != bool(extra):
            yield need


def _package(need: Requirement) -> Facts:
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        version = None
    return {
        "package": need.name,
        "version": version,
        "needs": str(need.specifier),
        "fits": version is not None and need.specifier.contains(version, prereleases=True),
    }
