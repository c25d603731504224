"""Score features by a bound on the error of linear classifiers on them (PACTran, experimental)."""

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import principal
from torchard.select.inputs import Array, checked_task

METHOD = Method(
    shapes=("measure",),
    source="Ding et al., ECCV 2022, arXiv 2203.05126",
    claim="A PAC-Bayes bound of a linear classifier goes along with accuracy after fine-tuning.",
)


def pactran(
    features: Array,
    targets: Array,
    *,
    dims: int = 100,
    prior_variance: float | None = None,
    inverse_temperature: float | None = None,
) -> float:
    """Return minus the PAC-Bayes bound of a Gaussian over linear classifiers; 0 is the best there is.

    Ding et al. 2022, their Gaussian form: with W the most probable classifier of m numbers and H the Hessian
    of its mean cross entropy, the bound is CE(W) + ‖W‖²/(2λ) + m/(2β)·ln(1 + λ·tr H/m), λ = βσ₀². The best
    classifier that knows nothing has minus ln k. Experimental: the paper tunes σ₀² and β to the size of the
    data, and its constants are not certain here. ``inverse_temperature=None`` takes β = 10 n,
    ``prior_variance=None`` σ₀² = 100/d. Ours: the first ``dims`` principal components are scaled to a mean
    square of 1, so that the features' scale does not matter, and the offset is one more weight. One convex
    fit: O(rounds · n d k) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, or if an option is not positive.
        TypeError: if either is complex or text.
    """
    given = {"dims": dims, "prior_variance": prior_variance, "inverse_temperature": inverse_temperature}
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"`{name}={value}` must be positive.")
    rows, ids = checked_task(features, targets)
    inputs = _with_offset(_unit_scale(principal(rows, dims=dims)))
    beta = inverse_temperature or 10.0 * len(ids)
    strength = beta * (prior_variance or 100.0 / (inputs.shape[1] - 1))
    return -bound(inputs, ids, strength, beta)


def bound(inputs: Tensor, ids: Tensor, strength: float, beta: float) -> float:
    """Return the bound at the classifier that minimises CE + ‖W‖²/(2 ``strength``) on ``inputs`` (n, d)."""
    least, weights = _fitted(inputs.numpy(), torch.nn.functional.one_hot(ids).double().numpy(), strength)
    number = weights.numel()
    trace = hessian_trace(inputs, weights)
    return least + number / (2 * beta) * math.log1p(strength * trace / number)


def hessian_trace(inputs: Tensor, weights: Tensor) -> float:
    """Return the trace of the Hessian of the mean cross entropy of ``inputs @ weights``, over all weights."""
    shares = (inputs @ weights).softmax(dim=1)
    spread = (shares * (1 - shares)).sum(dim=1)
    return (inputs.square().sum(dim=1) * spread).mean().item()


def _unit_scale(rows: Tensor) -> Tensor:
    return rows / rows.square().mean().sqrt().clamp(min=1e-150)


def _with_offset(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _fitted(inputs: np.ndarray, labels: np.ndarray, strength: float) -> tuple[float, Tensor]:
    """The least penalised mean cross entropy and its weights (d, k)."""
    shape = inputs.shape[1], labels.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = (log_total[:, 0] - (logits * labels).sum(axis=1)).mean() + flat @ flat / (2 * strength)
        error = (np.exp(logits - log_total) - labels) / len(labels)
        return float(loss), (inputs.T @ error).ravel() + flat / strength

    start = np.zeros(shape[0] * shape[1])
    found: Any = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-6}
    )
    return float(found.fun), torch.from_numpy(found.x.reshape(shape))
