"""What keeping freed memory is worth: a training step with and without it, in turn. About 3 minutes.

Each measurement is a process of its own, since the C library cannot be told back. Expected: at least a tenth
of the time of a step.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.functional import cross_entropy

from experiments import record
from torchard import hub
from torchard.cli.console import Column
from torchard.core.memory import keep_freed_memory

CLAIM = "Keeping freed memory saves at least a tenth of a training step on a CPU."
MODELS = {"mobilenetv2_100": 160, "tf_efficientnet_lite0": 224}  # name → input size
BATCH, STEPS, ROUNDS = 32, 5, 3
COLUMNS = (
    Column("name", head="model"),
    Column("size", head="input", unit="px"),
    Column("default", head="step, glibc's default", unit="s", digits=2),
    Column("kept", head="step, memory kept", unit="s", digits=2),
    Column("ratio", head="times as fast", digits=2),
)


def main() -> None:
    """Time every model both ways in turn, print the table and write ``results/freed_memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WAY"), help="print the seconds of one step")
    given = parser.parse_args()
    if given.one:
        print(step_seconds(given.one[0], keep=given.one[1] == "kept"))
        return
    rows = [_row(name) for name in MODELS]
    least = min(row["ratio"] for row in rows)
    verdict = f"{'Held' if least >= 1.1 else 'Not held'}: at least {least:.2f} times as fast."
    record.save("results/freed_memory.json", rows, COLUMNS, claim=CLAIM, verdict=verdict)


def step_seconds(name: str, *, keep: bool) -> float:
    """Return the median seconds of forward, backward and optimiser on a batch of 32."""
    if keep:
        keep_freed_memory()
    model, size = hub.load(name, num_classes=2).train(), MODELS[name]
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(BATCH) % 2
    optimizer, times = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(STEPS + 1):  # the first warms up
        start = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(model(images), targets).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _row(name: str) -> dict[str, float | str]:
    times: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(ROUNDS):
        for way, seconds in times.items():
            seconds.append(_apart(name, way))
    default, kept = (statistics.median(seconds) for seconds in times.values())
    return {"name": name, "size": MODELS[name], "default": default, "kept": kept, "ratio": default / kept}


def _apart(name: str, way: str) -> float:
    """The seconds of one step in a fresh process."""
    command = [sys.executable, "-m", "experiments.freed_memory", "--one", name, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
