"""Order the hub's models by how well their frozen features fit the task; choose one that time can tune."""

from collections.abc import Mapping, Sequence
from typing import Any

from torchard import hub
from torchard.core.errors import UsageError
from torchard.pipeline.job import Job
from torchard.pipeline.planning import FEWEST_EPOCHS
from torchard.select.rank import rank as rank_models

MOST_SAMPLES, FEWEST_SAMPLES = 500, 100
SECONDS_PER_IMAGE = 0.025  # a middling model at 224 pixels on two slow cores; only sizes the sample
TRAINING_COST = 4.0  # of one image, in forward passes: forward, twice that backward, and the optimiser
HALF_SIZE = 0.25  # of it, where tuning halves height and width for want of time


def rank(job: Job) -> dict[str, Any]:
    """Return the ranking of the models that match the settings' pattern, as it stands in ``rank.json``.

    LogME on a subsample of the training images, k-NN beside it. ``chosen`` is the cheapest of those tied for
    the best score among the models that tuning has time for; ``reason`` says so in a sentence.

    Raises:
        UsageError: if no model of that name is installed.
    """
    return job.stage("rank", {}, lambda: _rank(job))


def available(pattern: str) -> list[str]:
    """Return the models that can be loaded here and now: those packaged, or the one that ``pattern`` names.

    Raises:
        UsageError: if there is none.
    """
    packaged = [model.name for model in hub.list_models(pattern, source="packaged") if model.available]
    if packaged:
        return packaged
    if "*" not in pattern and "?" not in pattern:
        return [hub.describe(pattern).name]
    missing = [model.why_not for model in hub.list_models(pattern) if not model.available]
    hint = f" {missing[0]}" if missing else " `torchard hub list` shows what there is."
    raise UsageError(f"No model that is installed matches {pattern!r}.{hint}")


def choose(rows: Sequence[Mapping[str, Any]], tied: Sequence[str], *, images: int, seconds: float) -> str:
    """Return the best-scored model that ``seconds`` can train, at half its input size if need be.

    ``rows`` come best first, with ``seconds_per_image`` of inference at full size. A model can be trained if
    ``FEWEST_EPOCHS`` fit. Of those tied with the first that can, the cheapest is taken; if none can, the
    quickest.
    """
    each = images * TRAINING_COST * HALF_SIZE
    epochs = {row["model"]: seconds / (each * row["seconds_per_image"]) for row in rows}
    trainable = [row for row in rows if epochs[row["model"]] >= FEWEST_EPOCHS]
    if not trainable:
        return str(max(epochs, key=lambda name: epochs[name]))
    best = trainable[0]
    equals = [row for row in trainable if row is best or {row["model"], best["model"]} <= set(tied)]
    return str(min(equals, key=lambda row: row["macs"])["model"])


def _rank(job: Job) -> dict[str, Any]:
    names = available(job.settings.models)
    fitting = int(job.share("rank") / (len(names) * SECONDS_PER_IMAGE))
    samples = max(min(fitting, MOST_SAMPLES), FEWEST_SAMPLES)
    found = rank_models(
        names,
        job.task,
        samples=samples,
        seed=job.settings.seed,
        cache=job.run.path / "features",
        progress=lambda name: job.say(f"rank: {name}"),
    )
    for name, why in found.failed.items():
        job.say(f"rank: {name} is left out: {why}")
    facts = found.to_json()
    rows = [row | {"seconds_per_image": row["seconds"] / found.samples} for row in facts["rows"]]
    chosen = choose(rows, found.tied, images=len(job.task.train), seconds=job.share("tune"))
    reason = found.reason
    if chosen != found.chosen:
        reason += f" In the time there is, {chosen} can be trained for longer, and is taken."
    job.say(f"rank: {reason}")
    return facts | {"rows": rows, "chosen": chosen, "reason": reason}
