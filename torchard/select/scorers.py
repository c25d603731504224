"""The scorers that :func:`torchard.select.rank.rank` can run side by side, and what each needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchard.core.errors import UsageError
from torchard.select.etran import etran, etran_terms
from torchard.select.gbc import gbc
from torchard.select.h_score import h_score
from torchard.select.knn import knn_hits
from torchard.select.lda_probe import lda_terms
from torchard.select.leep import leep_terms
from torchard.select.linear_probe import linear_probe_hits
from torchard.select.logme import influence, logme
from torchard.select.nce import nce
from torchard.select.nleep import nleep_terms
from torchard.select.pactran import pactran
from torchard.select.sfda import sfda
from torchard.select.transrate import transrate

JACKKNIFE_GROUPS = 20
Needs = Literal["features", "source_probs"]


@dataclass(frozen=True, eq=False)
class Look:
    """What one model showed of the samples: features, class ids, and its own classifier's probabilities."""

    features: Tensor
    targets: Tensor
    source_probs: Tensor | None = None

    def subset(self, rows: Tensor) -> "Look":
        """Return the look at some of the samples."""
        probs = None if self.source_probs is None else self.source_probs[rows]
        return Look(self.features[rows], self.targets[rows], probs)


@dataclass(frozen=True)
class Scorer:
    """A score of one model's look, higher is better, and how much each part of the samples adds to it.

    ``pieces`` returns values whose mean varies as the score does when other samples are drawn, aligned
    between models; without it they come from a jackknife over groups of samples, at twenty times the cost.
    """

    name: str
    summary: str
    score: Callable[[Look], float]
    needs: Needs = "features"
    pieces: Callable[[Look], Tensor] | None = None

    def fits(self, look: Look) -> bool:
        """Return whether the look holds what this scorer needs."""
        return self.needs == "features" or look.source_probs is not None


@dataclass(frozen=True)
class JointScorer:
    """A score that exists only among candidates: terms of each model's look, made comparable all together."""

    name: str
    summary: str
    terms: Callable[[Look], tuple[float, float]]
    combine: Callable[[Sequence[tuple[float, float]]], list[float]]


LOGME = Scorer(
    "logme",
    "log evidence of a Bayesian linear model",
    lambda look: logme(look.features, look.targets),
    pieces=lambda look: influence(look.features, look.targets),
)
KNN = Scorer(
    "knn",
    "leave-one-out accuracy of 5 nearest neighbours",
    lambda look: knn_hits(look.features, look.targets, k=_neighbours(look)).mean().item(),
    pieces=lambda look: knn_hits(look.features, look.targets, k=_neighbours(look)),
)
LINEAR_PROBE = Scorer(
    "linear_probe",
    "cross-validated accuracy of logistic regression",
    lambda look: linear_probe_hits(look.features, look.targets, folds=_folds(look)).mean().item(),
    pieces=lambda look: linear_probe_hits(look.features, look.targets, folds=_folds(look)),
)
H_SCORE = Scorer(
    "h_score",
    "spread of class means in units of the features' covariance",
    lambda look: h_score(look.features, look.targets),
)
SHRUNK_H_SCORE = Scorer(
    "shrunk_h_score",
    "H-score with a shrunk covariance, for few samples",
    lambda look: h_score(look.features, look.targets, shrinkage=True),
)
LEEP = Scorer(
    "leep",
    "log-likelihood of targets given the source classifier's answers",
    lambda look: leep_terms(_probabilities(look), look.targets).mean().item(),
    needs="source_probs",
    pieces=lambda look: leep_terms(_probabilities(look), look.targets),
)
NCE = Scorer(
    "nce",
    "negative entropy of targets given the source classifier's labels",
    lambda look: nce(_probabilities(look).argmax(dim=1), look.targets),
    needs="source_probs",
)

TRANSRATE = Scorer(
    "transrate",
    "coding rate saved by knowing the classes",
    lambda look: transrate(look.features, look.targets),
)
GBC = Scorer(
    "gbc",
    "minus the overlap of classes as Gaussians",
    lambda look: gbc(look.features, look.targets),
)
SFDA = Scorer(
    "sfda",
    "log-probability by a Fisher discriminant on harder samples",
    lambda look: sfda(look.features, look.targets),
)
NLEEP = Scorer(
    "nleep",
    "LEEP on clusters of the features",
    lambda look: nleep_terms(look.features, look.targets).mean().item(),
    pieces=lambda look: nleep_terms(look.features, look.targets),
)
LDA_PROBE = Scorer(
    "lda_probe",
    "leave-one-out log-probability by a linear discriminant",
    lambda look: lda_terms(look.features, look.targets).mean().item(),
    pieces=lambda look: lda_terms(look.features, look.targets),
)
PACTRAN = Scorer(
    "pactran",
    "minus a PAC-Bayes bound of a linear classifier (experimental)",
    lambda look: pactran(look.features, look.targets),
)
ETRAN = JointScorer(
    "etran",
    "energy and discriminant, scaled over the candidates",
    lambda look: etran_terms(look.features, look.targets),
    etran,
)

_ALL = (
    *(LOGME, KNN, LINEAR_PROBE, LDA_PROBE, LEEP, NCE, NLEEP),
    *(H_SCORE, SHRUNK_H_SCORE, TRANSRATE, GBC, SFDA, ETRAN, PACTRAN),
)


def scorers() -> dict[str, Scorer | JointScorer]:
    """Return every scorer by name."""
    return {scorer.name: scorer for scorer in _ALL}


def named(name: str) -> Scorer | JointScorer:
    """Return the scorer of this name.

    Raises:
        UsageError: if there is none; all names are listed.
    """
    known = scorers()
    if name not in known:
        raise UsageError(f"No scorer is called {name!r}. There are: {', '.join(known)}.")
    return known[name]


def pieces(scorer: Scorer, look: Look) -> Tensor:
    """Return values whose standard deviation, over the root of their number, is the score's error."""
    if scorer.pieces is not None:
        return scorer.pieces(look)
    return _jackknife_pieces(scorer, look)


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of ``values``."""
    return values.double().std().item() / math.sqrt(len(values))


def _jackknife_pieces(scorer: Scorer, look: Look) -> Tensor:
    """Pseudo-values of the grouped jackknife: the score, less what leaving out a group changes, scaled up."""
    groups = _groups(look.targets, min(JACKKNIFE_GROUPS, len(look.targets) // 2))
    number = int(groups.max()) + 1
    whole = scorer.score(look)
    without = [scorer.score(look.subset(torch.nonzero(groups != group).flatten())) for group in range(number)]
    return number * whole - (number - 1) * torch.tensor(without, dtype=torch.float64)


def _groups(targets: Tensor, number: int) -> Tensor:
    """Deal the samples out, class after class, so that each group has its share of every class."""
    groups = torch.empty(len(targets), dtype=torch.int64)
    groups[torch.argsort(targets, stable=True)] = torch.arange(len(targets)) % number
    return groups


def _neighbours(look: Look) -> int:
    return min(5, len(look.targets) - 1)


def _folds(look: Look) -> int:
    """Five, or as many as the smallest class has samples."""
    return max(2, min(5, int(look.targets.unique(return_counts=True)[1].min())))


def _probabilities(look: Look) -> Tensor:
    if look.source_probs is None:
        raise ValueError("`source_probs` are missing: the model comes without a source classifier.")
    return look.source_probs
