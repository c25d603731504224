"""The one look at the test split: both models, the pruned one's confusions and its surest mistakes."""

import base64
import io
from collections import Counter
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from torchard.core.data import Split
from torchard.pipeline.job import Job
from torchard.pipeline.prune import Pruned
from torchard.pipeline.training import measured, predict_split
from torchard.pipeline.tune import Tuned

MISTAKES = 12
MATRIX_CLASSES = 500  # above, the matrix of confusions is left out for its largest entries
THUMBNAIL = 96  # pixels of the longer side


def score(job: Job, tuned: Tuned, pruned: Pruned) -> dict[str, Any]:
    """Return all test metrics of the tuned and the pruned model, in float32; cached as ``test.json``."""

    def compute() -> dict[str, Any]:
        split = job.task.test
        whole, small = (predict_split(model, split, tuned.spec) for model in (tuned.model, pruned.model))
        return {
            "classes": list(job.task.classes),
            "tuned": _measured(job, whole),
            "pruned": _measured(job, small) | {"mistakes": surest_mistakes(split, small, job.task.classes)},
        }

    key = {"pruned": job.key("report", pruned.facts)}
    return job.run.cached("test", key, compute)


def surest_mistakes(
    split: Split, logits: Float[Tensor, "n c"], classes: tuple[str, ...], *, count: int = MISTAKES
) -> list[dict[str, Any]]:
    """Return the wrongly classified images of which the model was surest, each with a thumbnail."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != split.targets).nonzero().flatten()
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    return [
        {
            "name": split.names[index],
            "true": classes[int(split.targets[index])],
            "predicted": classes[int(predicted[index])],
            "confidence": float(confidence[index]),
            "thumbnail": thumbnail(split, index),
        }
        for index in surest.tolist()
    ]


def thumbnail(split: Split, index: int) -> str:
    """Return an image as a small JPEG in a ``data:`` URL."""
    image = split.image(index)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def most_confused(
    predicted: Int[Tensor, " n"], split: Split, classes: tuple[str, ...], *, count: int = 100
) -> list[dict[str, Any]]:
    """Return the pairs of classes most often taken for one another, with their share of the class."""
    pairs = Counter(zip(split.targets.tolist(), predicted.tolist()))
    wrong = [(pair, times) for pair, times in pairs.most_common() if pair[0] != pair[1]]
    sizes = Counter(split.targets.tolist())
    return [
        {"true": classes[true], "predicted": classes[other], "count": times, "share": times / sizes[true]}
        for (true, other), times in wrong[:count]
    ]


def _measured(job: Job, logits: Float[Tensor, "n c"]) -> dict[str, Any]:
    split, classes = job.task.test, job.task.classes
    found = measured(logits, split, classes)
    if len(classes) > MATRIX_CLASSES:
        del found["confusion"]
        found["confused"] = most_confused(logits.argmax(dim=1), split, classes)
    return found
