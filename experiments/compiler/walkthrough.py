"""A small classifier with a graph break and recompilations, and the same without: time per call.

The example of the guide on reading a dump. Expected: the mended model needs one compilation and is faster per
call. About 2 minutes with a C++ compiler (Inductor), else with the backend "aot_eager".
"""

import shutil
import statistics
import tempfile
import time
from typing import Any

import torch
from torch import nn

from experiments import record
from torchard.cli.console import Column
from torchard.compiler import depyf

CLAIM = (
    "Two graph breaks and recompilations found in the dump and mended: one compilation, less time per call."
)
TEMPERATURES = (1.0, 0.5, 0.25, 0.125)


class Classifier(nn.Module):
    """Counts its calls and looks at its features: both cost more than they seem."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)
        self.calls = 0

    def forward(self, x: Any, temperature: float) -> Any:
        self.calls += 1
        h = self.first(x).relu()
        if h.abs().max() > 1e4:
            raise ValueError("the features explode")
        return self.second(h) / temperature


class Mended(Classifier):
    """The check is part of the graph, the temperature a tensor, and nothing is counted inside."""

    def forward(self, x: Any, temperature: Any) -> Any:
        h = self.first(x).relu()
        torch._assert_async((h.abs().max() <= 1e4).all(), "the features explode")
        return self.second(h) / temperature


def measured(model: nn.Module, temperatures: list[Any], backend: str) -> dict[str, Any]:
    """Compile under the dump, then time calls as a training loop would make them."""
    torch.compiler.reset()
    x = torch.randn(32, 64)
    compiled = torch.compile(model, backend=backend)
    with tempfile.TemporaryDirectory() as folder, depyf.prepare_debug(folder) as session, torch.no_grad():
        start = time.perf_counter()
        for temperature in temperatures:
            compiled(x, temperature)
        first = time.perf_counter() - start
    times = []
    with torch.no_grad():
        for round_ in range(300):
            start = time.perf_counter()
            compiled(x, temperatures[round_ % len(temperatures)])
            times.append(time.perf_counter() - start)
    return {
        "compilations": sum(len(frame.entries) for frame in session.frames),
        "breaks": sum(len(frame.breaks) for frame in session.frames),
        "first": first,
        "call_us": statistics.median(times) * 1e6,
    }


def main() -> None:
    backend = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
    torch.manual_seed(0)
    rows = [
        {"model": "as written", **measured(Classifier(), list(TEMPERATURES), backend)},
        {"model": "mended", **measured(Mended(), [torch.tensor(t) for t in TEMPERATURES], backend)},
    ]
    columns = [
        Column("model"),
        Column("compilations"),
        Column("breaks", "graph breaks"),
        Column("first", "first four calls", unit="s", digits=1),
        Column("call_us", "one call", unit="µs", digits=0),
    ]
    good = rows[1]["call_us"] < rows[0]["call_us"] and rows[1]["breaks"] == 0
    record.save(
        "results/depyf_walkthrough.json",
        rows,
        columns,
        claim=CLAIM,
        verdict=f"Backend {backend}. " + ("As expected." if good else "Not as expected: see the rows."),
    )


if __name__ == "__main__":
    main()
