"""Score features by their energy and by how a discriminant classifies them, across all candidates (ETran)."""

from collections.abc import Sequence

import torch

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_task
from torchard.select.lda_probe import lda_in_sample

METHOD = Method(
    shapes=("measure",),
    source="Gholami et al., ICCV 2023, arXiv 2308.02027",
    claim="Energy of features, which needs no labels, and a discriminant rank classifiers and detectors.",
)


def etran(candidates: Sequence[tuple[float, float]]) -> list[float]:
    """Return one score a model from all models' :func:`etran_terms`; higher is better.

    Gholami et al. 2023: each term is scaled to 0…1 over the candidates, and the two are added, so a
    score belongs to its set of candidates. A term that is the same for all counts 0.

    Raises:
        ValueError: if there are no candidates.
    """
    if not candidates:
        raise ValueError("`candidates` is empty: there is nothing to compare.")
    terms = torch.tensor(list(candidates), dtype=torch.float64)
    low, high = terms.amin(dim=0), terms.amax(dim=0)
    scaled = (terms - low) / torch.where(high > low, high - low, 1.0)
    return scaled.sum(dim=1).tolist()


def etran_terms(features: Array, targets: Array) -> tuple[float, float]:
    """Return a model's energy (mean log-sum-exp over features) and its discriminant's mean log-probability.

    Gholami et al. 2023, from memory; the discriminant here has a shrunk covariance. O(n d min(n, d)) time.

    Raises:
        ValueError: as :func:`torchard.select.logme.logme`.
        TypeError: if either is complex or text.
    """
    rows, ids = checked_task(features, targets)
    return rows.logsumexp(dim=1).mean().item(), lda_in_sample(rows, ids).mean().item()
