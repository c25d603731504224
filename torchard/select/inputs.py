"""What every scorer checks at its door: features, class ids, source probabilities."""

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


def checked_features(features: Array) -> Tensor:
    """Return ``features`` as an (n, d) float64 tensor on the CPU.

    Raises:
        ValueError: if they are not (n, d) with d ≥ 1, or hold NaN or infinity.
        TypeError: if they are complex or text.
    """
    rows = _as_tensor(features, "features")
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"`features` has shape {tuple(rows.shape)}; expected (n, d) with d ≥ 1.")
    return _finite(rows.double(), "features")


def checked_class_ids(targets: Array, samples: int) -> Tensor:
    """Return ``targets`` as (n,) int64 class ids.

    Raises:
        ValueError: if they are not (n,) integers from 0, or their number is not ``samples``.
        TypeError: if they are complex or text.
    """
    ids = _as_tensor(targets, "targets")
    if ids.ndim != 1:
        raise ValueError(
            f"`targets` has shape {tuple(ids.shape)}; classification takes one class id a sample, (n,). "
            "For several labels a sample use LogME with task='multilabel'."
        )
    _check_count(ids, samples)
    if ids.is_floating_point() and not bool((_finite(ids, "targets") == ids.round()).all()):
        raise ValueError("`targets` are not integers; for numbers use LogME with task='regression'.")
    ids = ids.long()
    if len(ids) and int(ids.min()) < 0:
        raise ValueError(f"`targets` holds the class id {int(ids.min())}; ids count from 0.")
    return ids


def checked_columns(targets: Array, samples: int) -> Tensor:
    """Return ``targets`` as an (n, k) float64 tensor; (n,) becomes one column.

    Raises:
        ValueError: if they have another shape or number, or hold NaN or infinity.
        TypeError: if they are complex or text.
    """
    columns = _as_tensor(targets, "targets").double()
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or not columns.shape[1]:
        raise ValueError(f"`targets` has shape {tuple(columns.shape)}; expected (n,) or (n, k).")
    _check_count(columns, samples)
    return _finite(columns, "targets")


def checked_task(features: Array, targets: Array) -> tuple[Tensor, Tensor]:
    """Return float64 features (n, d) and class ids 0 … k−1 (n,), absent classes left out.

    Raises:
        ValueError: as the two above, or if there are fewer than 2 samples or classes.
        TypeError: if either is complex or text.
    """
    rows = checked_features(features)
    return rows, compact(checked_class_ids(targets, len(rows)))


def checked_probabilities(source_probs: Array) -> Tensor:
    """Return ``source_probs`` as an (n, s) float64 tensor of probabilities.

    Raises:
        ValueError: if one is negative, or a row does not sum to 1 within 0.001.
        TypeError: if they are complex or text.
    """
    probabilities = _finite(_as_tensor(source_probs, "source_probs").double(), "source_probs")
    if probabilities.ndim != 2 or not probabilities.shape[1]:
        raise ValueError(f"`source_probs` has shape {tuple(probabilities.shape)}; expected (n, s).")
    if bool((probabilities < 0).any()):
        raise ValueError("`source_probs` holds negative values; give probabilities, not logits.")
    worst = (probabilities.sum(dim=1) - 1).abs().max().item() if len(probabilities) else 0.0
    if worst > 1e-3:
        raise ValueError(f"`source_probs`: a row sums to 1 ± {worst:.3g}; give probabilities, not logits.")
    return probabilities


def compact(ids: Tensor) -> Tensor:
    """Return class ids renumbered 0 … k−1.

    Raises:
        ValueError: if there are fewer than 2 samples or classes.
    """
    check_enough(ids)
    return torch.unique(ids, return_inverse=True)[1]


def check_enough(ids: Tensor) -> None:
    """Raise ValueError for fewer than 2 samples or a single class."""
    if len(ids) < 2:
        raise ValueError(f"`features` has {len(ids)} rows; at least 2 samples are needed.")
    if bool((ids == ids[0]).all()):
        raise ValueError("`targets` holds a single class: there is nothing to tell apart.")


def _as_tensor(values: Array, name: str) -> Tensor:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "fiub":
            raise TypeError(f"`{name}` holds {values.dtype} values; expected real numbers.")
        return torch.from_numpy(np.ascontiguousarray(values))
    if values.is_complex():
        raise TypeError(f"`{name}` holds {values.dtype} values; expected real numbers.")
    return values.detach().cpu()


def _finite(values: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"`{name}` holds NaN or infinity.")
    return values


def _check_count(targets: Tensor, samples: int) -> None:
    if len(targets) != samples:
        raise ValueError(f"`features` has {samples} rows and `targets` {len(targets)}; they must agree.")
