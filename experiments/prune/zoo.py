"""Prune every architecture of the zoo at ratio 0.5 without hints, and check each for silent errors.

Random weights, random units removed, so that a wrong index shows. Each model runs in a process of its own,
rows are written as they come and kept: the same command goes on where it stopped. About 40 minutes on two
cores; ``--part 2/8`` does an eighth. ``--rival`` adds PyPI torch-pruning on the same models in the same run
(extra ``bench``), about 25 minutes more. Limits are seconds of the processor, not of the clock.

Expected: at least 98 % pruned, the rest refused with a named reason, no silent error.
"""

import argparse
import fnmatch
import multiprocessing
import resource
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import record
from experiments.prune.models import Build, zoo
from experiments.prune.subject import Subject, outputs
from torchard.cli.console import Column
from torchard.core.files import read_json, write_json
from torchard.core.memory import keep_freed_memory
from torchard.prune.depgraph import apply, plan, trace, verify

ROWS = record.ROOT / "runs" / "depgraph_zoo_rows.json"  # what is done so far; runs/ is not committed
RESULT = "results/depgraph_zoo.json"
COLUMNS = [
    Column("name"),
    Column("status"),
    Column("groups"),
    Column("macs", "MACs kept", digits=2),
    Column("error", digits=8),
    Column("trace", "trace + groups", "s", digits=2),
    Column("memory", "peak memory", "MB", digits=0),
    Column("reason"),
]


def main() -> None:
    options = _options()
    keep_freed_memory()
    subjects = {name: build for name, build in zoo().items() if fnmatch.fnmatch(name, options.only)}
    part, parts = (int(number) for number in options.part.split("/"))
    chosen = {name: subjects[name] for place, name in enumerate(subjects) if place % parts == part - 1}
    rows: dict[str, Any] = read_json(ROWS) if ROWS.exists() and not options.fresh else {}
    for name, build in chosen.items():
        if name in rows and rows[name]["status"] == "pruned" and (not options.rival or "rival" in rows[name]):
            continue
        row = {"name": name, **isolated(lambda build=build: examine(build()), options.seconds)}
        if options.rival:
            row["rival"] = _rival(build, options.rival_seconds, comparable=not row.get("tags"))
        rows[name] = row
        _show(rows[name])
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        write_json(ROWS, rows)
    if options.save:
        save(list(rows.values()))


def examine(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Prune one subject and return a row: what came of it, and what it cost."""
    model, inputs = subject.model.eval(), subject.inputs
    shapes = [out.shape for out in outputs(subject, model)]
    times = []
    for _ in range(2):  # the better of two: what torch loads at a first trace is no part of a model's time
        start = time.perf_counter()
        graph = trace(model, inputs, forward=subject.forward)
        groups = graph.groups()
        for group in groups:
            _ = [member.places for member in group.members]  # made when asked for, as a plan will
        times.append(time.perf_counter() - start)
    chosen = plan(graph, ratio=0.5, criterion="random", seed=seed)
    row = {
        "groups": len(groups),
        "macs": chosen.macs[1] / max(chosen.macs[0], 1),
        "params": chosen.params[1] / chosen.params[0],
        "trace": min(times),
        "planned": time.perf_counter() - start,
        "unknown": dict(graph.unknown),
        "tags": list(chosen.tags),
        "frozen": {name: why for name, why in chosen.frozen.items() if _worth_saying(why)},
    }
    if not chosen.removed:
        return {**row, "status": "refused", "reason": _main_reason(row["frozen"])}
    checked = verify(model, chosen, inputs, forward=subject.forward, seed=seed)
    pruned = apply(model, chosen).model
    if [out.shape for out in outputs(subject, pruned)] != shapes:
        return {**row, "status": "failed", "reason": "the output changed its shape"}
    pruned.train()
    twice = Subject(pruned, _doubled(inputs), subject.forward)  # batch norm cannot train on one sample
    sum(out.float().sum() for out in outputs(twice, pruned, grad=True)).backward()
    status = "pruned" if checked.passed else "silent error"
    return {**row, "status": status, "error": checked.error, "moved": checked.moved, "reason": ""}


def isolated(examined: Callable[[], dict[str, Any]], seconds: int) -> dict[str, Any]:
    """Return the row that ``examined`` makes in a forked process, or one that says why there is none."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(examined, seconds, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        row = receiver.recv()
    except EOFError:
        row = {"status": "failed"}
    process.join()
    if process.exitcode:
        late = process.exitcode == -signal.SIGXCPU
        row["reason"] = f"out of time after {seconds} s" if late else f"died of signal {-process.exitcode}"
    return row


def save(rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the table and the totals."""
    count = {
        s: sum(row["status"] == s for row in rows) for s in ("pruned", "refused", "failed", "silent error")
    }
    verdict = f"{len(rows)} models: " + ", ".join(f"{n} {status}" for status, n in count.items()) + "."
    if rivals := [row["rival"]["status"] for row in rows if "rival" in row]:
        named = ", ".join(f"{rivals.count(status)} {status}" for status in sorted(set(rivals)))
        verdict += f" torch-pruning on {len(rivals)} of them: {named}; {_times(rows)}."
    table = [{column.key: row.get(column.key) for column in COLUMNS} for row in rows]
    details = {"totals": count, "rows": {row["name"]: dict(row) for row in rows}}
    claim = (
        "At least 98 % of the models prune at 0.5 without hints, the rest refuse by name; no silent errors."
    )
    return record.save(RESULT, table, COLUMNS, claim=claim, verdict=verdict, details=details)


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median seconds for graph and groups where both found them."""
    both = [
        (row["trace"], row["rival"]["trace"])
        for row in rows
        if "trace" in row and "trace" in row.get("rival", {})
    ]
    if not both:
        return "no graph in common"
    ours, theirs = (statistics.median(column) for column in zip(*both))
    return f"graph and groups in {ours:.2f} s (median of {len(both)}), torch-pruning in {theirs:.2f} s"


def _work(examined: Callable[[], dict[str, Any]], seconds: int, sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        row = examined()
    except Exception as error:
        row = {
            "status": "failed",
            "reason": f"{type(error).__name__}: {error}"[:300],
            "where": traceback.format_exc(),
        }
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sender.send(row)


def _rival(build: Build, seconds: int, *, comparable: bool) -> dict[str, Any]:
    """What torch-pruning does with the subject; whatever it stumbles over is what is measured."""
    from experiments.prune import rival

    row = isolated(lambda: rival.examine(build(), comparable=comparable), seconds)
    return {name: value for name, value in row.items() if name != "where"}


def _doubled(inputs: Any) -> Any:
    return torch.cat([inputs, inputs]) if isinstance(inputs, Tensor) and len(inputs) == 1 else inputs


def _worth_saying(why: Sequence[str]) -> bool:
    return not any(reason in ("model input", "model output") for reason in why)


def _main_reason(frozen: Mapping[str, Sequence[str]]) -> str:
    reasons = [reason for why in frozen.values() for reason in why]
    return max(reasons, key=reasons.count) if reasons else "no group"


def _show(row: Mapping[str, Any]) -> None:
    macs = f"{row['macs']:.2f}" if "macs" in row else ""
    error = f"{row['error']:.1e}" if "error" in row else ""
    print(
        f"{row['name']:<48} {row['status']:<12} {macs:>5} {error:>8}  {row.get('reason', '')[:150]}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument("--part", default="1/1", help="which part of how many")
    parser.add_argument("--seconds", type=int, default=300, help="limit for one model")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    parser.add_argument("--rival", action="store_true", help="also PyPI torch-pruning")
    parser.add_argument("--rival-seconds", type=int, default=60, help="limit for torch-pruning on one model")
    parser.add_argument("--save", action="store_true", help="write the result file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
