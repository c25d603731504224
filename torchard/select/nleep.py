"""Score features by LEEP on the clusters they fall into, for models without a classifier (N-LEEP)."""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from torchard.core.method import Method
from torchard.select.geometry import by_length, principal
from torchard.select.inputs import Array, checked_task
from torchard.select.leep import leep_terms

METHOD = Method(
    shapes=("measure",),
    source="Li et al., CVPR 2021, arXiv 2011.11200",
    claim="Gaussian mixture components in place of source classes make LEEP fit any feature extractor.",
)


def nleep(
    features: Array, targets: Array, *, seed: int = 0, components: int | None = None, energy: float = 0.8
) -> float:
    """Return LEEP of the targets given the responsibilities of a Gaussian mixture; at most 0.

    Li et al. 2021: principal components that hold a share ``energy`` of the variance, a mixture of
    ``components`` diagonal Gaussians (default: five a class, from memory, but no more than half the
    samples). The mixture's start is drawn from ``seed``; the order of the samples does not matter.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`, if ``components`` is not between 1 and n, or
            ``energy`` not between 0 and 1.
        TypeError: if either is complex or text.
    """
    return nleep_terms(features, targets, seed=seed, components=components, energy=energy).mean().item()


def nleep_terms(
    features: Array, targets: Array, *, seed: int = 0, components: int | None = None, energy: float = 0.8
) -> Tensor:
    """Return each sample's log-likelihood, (n,); the mean is :func:`nleep`.

    Raises:
        ValueError, TypeError: as :func:`nleep`.
    """
    rows, ids = checked_task(features, targets)
    number = components if components is not None else max(2, min(5 * (int(ids.max()) + 1), len(rows) // 2))
    if not 1 <= number <= len(rows):
        raise ValueError(f"`components={number}` must lie between 1 and the {len(rows)} samples.")
    if not 0 < energy <= 1:
        raise ValueError(f"`energy={energy}` must lie between 0 and 1.")
    order = by_length(rows - rows.mean(dim=0))
    reduced = principal(rows[order], energy=energy).numpy()
    spread = reduced.std()
    mixture = GaussianMixture(number, covariance_type="diag", random_state=seed, reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that still moves a little will do
        responsibilities = mixture.fit(reduced / (spread or 1.0)).predict_proba(reduced / (spread or 1.0))
    terms = torch.empty(len(rows), dtype=torch.float64)
    terms[order] = leep_terms(responsibilities, ids[order])
    return terms
