"""How good a model's answers are: accuracy, balanced accuracy, macro-F1, AUROC; per class and per group."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor


def metrics(
    outputs: Float[Tensor, "n c"],
    targets: Int[Tensor, " n"],
    *,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return accuracy, balanced accuracy, macro-F1 and AUROC of logits or probabilities, in JSON types.

    Balanced accuracy is the mean recall of the classes that occur. Macro-F1 is over classes that occur or are
    answered. AUROC is one-vs-rest, averaged over the classes that occur, and ``None`` where only one does.
    ``confusion`` has a row per true class. With ``groups``, ``per_group`` holds the same four for each group.

    Raises:
        ValueError: if there are no samples, a target names no class, or outputs hold NaN or infinity.
    """
    _check(outputs, targets, classes)
    scores = _probabilities(outputs.detach().cpu().double()).numpy()
    truth = targets.detach().cpu().numpy()
    confusion = _confusion(truth, scores.argmax(axis=1), len(classes))
    result = _four(scores, truth, confusion) | {
        "count": len(truth),
        "confusion": confusion.tolist(),
        "per_class": _per_class(confusion, classes),
    }
    if groups is not None:
        result["per_group"] = _per_group(scores, truth, np.asarray(groups))
    return result


def class_weights(targets: Int[Tensor, " n"], num_classes: int) -> Float[Tensor, " c"]:
    """Return a weight per class that makes all occurring classes count the same.

    The mean weight over samples is 1; a class without samples gets 0.
    """
    counts = targets.bincount(minlength=num_classes).double()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(targets) / (present * counts.clamp(min=1)), 0.0).float()


def _check(outputs: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
    if len(targets) == 0:
        raise ValueError("`targets` is empty: there is nothing to measure")
    if outputs.shape[1] != len(classes):
        raise ValueError(f"`outputs` have {outputs.shape[1]} columns for {len(classes)} classes")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"`targets` go from {low} to {high}, but must lie in 0…{len(classes) - 1}")
    if not bool(outputs.isfinite().all()):
        raise ValueError("`outputs` hold NaN or infinity")


def _probabilities(outputs: Tensor) -> Tensor:
    """Outputs that are distributions already stay as they are."""
    sums = outputs.sum(dim=1)
    if bool((outputs >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
        return outputs
    return outputs.softmax(dim=1)


def _confusion(truth: np.ndarray, answers: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(truth * count + answers, minlength=count * count).reshape(count, count)


def _four(scores: np.ndarray, truth: np.ndarray, confusion: np.ndarray) -> dict[str, float | None]:
    right, true, answered = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs, counts = true > 0, true + answered > 0
    return {
        "accuracy": float(right.sum() / true.sum()),
        "balanced_accuracy": float((right[occurs] / true[occurs]).mean()),
        "macro_f1": float((2 * right[counts] / (true + answered)[counts]).mean()),
        "auroc": _auroc(scores, truth),
    }


def _auroc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    occurring = np.unique(truth)
    if len(occurring) < 2:
        return None
    return float(np.mean([roc_auc_score(truth == label, scores[:, label]) for label in occurring]))


def _per_class(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    right, true, answered = (
        counts.tolist() for counts in (confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))
    )
    return {
        name: {
            "count": true[row],
            "recall": _ratio(right[row], true[row]),
            "precision": _ratio(right[row], answered[row]),
            "f1": _ratio(2 * right[row], true[row] + answered[row]),
        }
        for row, name in enumerate(classes)
    }


def _per_group(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, Any]]:
    result = {}
    for group in sorted(set(groups.tolist())):
        rows = groups == group
        confusion = _confusion(truth[rows], scores[rows].argmax(axis=1), scores.shape[1])
        result[group] = {"count": int(rows.sum())} | _four(scores[rows], truth[rows], confusion)
    return result


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
