"""From data and a budget to a small deployed model: the whole line, once."""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torchard
from torchard.core.data import load_task
from torchard.core.errors import UsageError
from torchard.core.provenance import command, machine, versions
from torchard.core.run import RunFolder, check_same, check_usable
from torchard.pipeline.deploy import deploy
from torchard.pipeline.job import SHARES, Job, stopwatch
from torchard.pipeline.prune import Pruned, prune
from torchard.pipeline.rank import available, rank
from torchard.pipeline.score import score
from torchard.pipeline.settings import Settings
from torchard.pipeline.tune import Tuned, tune
from torchard.report.page import write_report

TOLERANCE = 1.1  # a run is in time if it takes at most so much of its budget
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime", "scikit-learn")


def fit(settings: Settings, out: Path, *, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Rank, tune, prune, export and report into the run folder ``out``; return the facts of :func:`summary`.

    Each stage's result is kept: the same call after a kill goes on where it stopped, and on a finished run it
    only reads. ``say`` receives a line of text per step.

    Raises:
        UsageError: if the data or the models cannot be found, the folder holds another run, or a launcher
            started several processes.
        DataError: if the data are refused.
        RunLockedError: if another process works in the folder.
        InterruptedRunError: after Ctrl-C; the same call goes on.
    """
    with opened(settings, out, say=say) as job:
        ranking = rank(job)
        tuned = tune(job, ranking)
        pruned = prune(job, tuned)
        deploy(job, tuned, pruned)
        return finish(job, tuned, pruned)


@contextmanager
def opened(settings: Settings, out: Path, *, say: Callable[[str], None] = lambda line: None) -> Iterator[Job]:
    """Load the data, take the run folder, and hand out the job that the stages work on.

    What can be refused without looking at the data is refused first; a refusal leaves nothing behind.

    Raises:
        UsageError, DataError, RunLockedError: as :func:`fit`.
    """
    check_alone()
    available(settings.models)
    check_usable(out)
    values = settings.to_json()
    check_same(out, values, list(values))
    with stopwatch() as seconds:
        task = load_task(settings.data, seed=settings.seed, strict=settings.strict, metric=settings.metric)
    with RunFolder.open(out, provenance() | values, same=list(values)) as run:
        run.write("data", task.summary())
        for note in task.notes:
            say(f"data: {note}")
        yield Job(run, task, settings, say, loading=seconds())


def check_alone() -> None:
    """Refuse the several processes of a launcher: one would have the folder, and wait for the others.

    Raises:
        UsageError: if there are several.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise UsageError(
            f"torchard was launched in {processes} processes, but one makes a run, and takes every core. "
            "Start it without a launcher. To train in several, launch a script of your own that calls "
            "torchard.core.trainer.Trainer."
        )


def finish(job: Job, tuned: Tuned, pruned: Pruned) -> dict[str, Any]:
    """Look at the test split, write the report, and return the facts of :func:`summary`."""

    def compute() -> dict[str, Any]:
        score(job, tuned, pruned)
        return {"file": "report.html"}

    job.stage("report", pruned.facts, compute)
    if job.run.read("timing") is None:
        stages: dict[str, float] = {"data": job.loading}
        stages |= {name: job.spent(name) for name in SHARES}
        total = {"budget_seconds": job.settings.seconds, "total_seconds": sum(stages.values())}
        job.run.write("timing", {"stages": stages, **total})
    write_report(job.run.path)
    return summary(job)


def summary(job: Job) -> dict[str, Any]:
    """Return what was built: costs and test results before and after pruning, files, time, targets kept."""
    prune, export, test, tune, timing = (
        job.run.read(name) or {} for name in ("prune", "export", "test", "tune", "timing")
    )
    folder = job.run.path
    files = {"tuned": export["tuned"], "pruned": export["onnx"]}
    rows = [
        {
            "name": name,
            "test": test[name][job.task.metric],
            "accuracy": test[name]["accuracy"],
            "params": costs["params"],
            "macs": costs["macs"],
            "bytes": files[name]["bytes"],
            "latency_ms": files[name]["latency_ms"]["median"],
        }
        for name, costs in (("tuned", prune["before"]), ("pruned", prune["after"]))
    ]
    return {
        "data": job.task.name,
        "model": tune["model"],
        "tuned_by": tune["chosen"],
        "metric": job.task.metric,
        "classes": len(job.task.classes),
        "test_images": len(job.task.test),
        "models": rows,
        "targets": prune["target"],
        "reached": prune["reached"],
        "speedup": export["speedup"],
        "onnx": str(folder / export["onnx"]["file"]),
        "seconds": timing["total_seconds"],
        "budget_seconds": job.settings.seconds,
        "in_time": timing["total_seconds"] <= TOLERANCE * job.settings.seconds,
        "notes": tune["notes"],
        "report": str(folder / "report.html"),
        "run": str(folder),
    }


def provenance() -> dict[str, Any]:
    """Return what a reader needs to reproduce the run: versions, machine, command and time."""
    return {
        "torchard": torchard.__version__,
        "command": command(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(PACKAGES),
        "machine": machine(),
    }
