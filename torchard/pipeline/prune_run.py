"""Prune the tuned model that a run folder holds, for other targets or for the first time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchard.core.budget import Limit
from torchard.core.data import load_task
from torchard.core.errors import UsageError
from torchard.core.files import quote
from torchard.core.run import RunFolder
from torchard.pipeline.deploy import ONNX, PROGRAM, UNPRUNED
from torchard.pipeline.fit import check_alone
from torchard.pipeline.job import Job
from torchard.pipeline.prune import prune
from torchard.pipeline.settings import Settings
from torchard.pipeline.tune import load_tuned

# What is made of a pruned model; of another one, once there is a new one.
LATER = ("export.json", "test.json", "timing.json", "report.json", "report.html", UNPRUNED, ONNX, PROGRAM)


def prune_run(
    folder: Path,
    *,
    targets: Mapping[str, Limit] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Cut the run's tuned model to the targets and train what is left on the run's data; return the facts.

    What `fit` does after tuning, in the time that the run's settings leave for it. ``targets`` holds limits
    by quantity (``"macs"``, ``"params"``, ``"latency"``); ``None`` keeps the run's own. The result goes into
    the run in place of an earlier one, whose exports and test results go with it. A killed call goes on.

    Raises:
        UsageError: if the folder is no run with a tuned model, the data are others than it was tuned on, or
            a launcher started several processes.
        RunLockedError: if another process works in the folder.
        UnprunableError: if nothing in the model can be removed.
    """
    check_alone()
    view = RunFolder.view(folder)
    facts = view.read("tune")
    if facts is None or not (folder / "tuned.safetensors").is_file():
        raise UsageError(f"{quote(folder)} holds no tuned model; `torchard tune` makes one.")
    wanted = {"targets": {name: str(limit) for name, limit in targets.items()}} if targets else {}
    settings = Settings.from_json(view.settings | wanted)
    task = load_task(settings.data, seed=settings.seed, strict=settings.strict, metric=settings.metric)
    if task.fingerprint != (view.read("data") or {}).get("fingerprint"):
        raise UsageError(f"{settings.data} is not what it was when {quote(folder)} was tuned; tune it again.")
    with RunFolder.open(folder) as run:
        if run.read("prune") is None or view.settings["targets"] != settings.to_json()["targets"]:
            _forget(run)
    with RunFolder.open(folder, view.settings | settings.to_json()) as run:
        job = Job(run, task, settings, say)
        pruned = prune(job, load_tuned(job, facts))
        return {**pruned.facts, "model": facts["model"], "metric": task.metric, "run": str(run.path)}


def _forget(run: RunFolder) -> None:
    """Remove what was made of the model that is to be replaced, so that nobody is answered by it."""
    for name in LATER:
        (run.path / name).unlink(missing_ok=True)
