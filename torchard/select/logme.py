"""Score a pre-trained model for a task by the log evidence of its features (LogME)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchard.core.method import Method
from torchard.select.inputs import Array, checked_class_ids, checked_columns, checked_features

METHOD = Method(
    shapes=("measure",),
    source="You et al., ICML 2021, arXiv 2102.11005; JMLR 2022, arXiv 2110.10545",
    claim="Orders pre-trained models by how well they fine-tune, thousands of times faster than doing so.",
)

Kind = Literal["classification", "multilabel", "regression"]
Solver = Literal["hybrid", "fixed_point"]


def logme(features: Array, targets: Array, *, task: Kind = "classification") -> float:
    """Return the log evidence per sample of a Bayesian linear model on frozen features; higher is better.

    You et al. 2021, averaged over the classes (one against the rest) or the columns of ``targets``.
    It is a log *density*: it can be negative, zero or above one, and has no range. Compare models on one
    set of samples and targets only; with ``task="regression"`` the unit of the targets enters too. Several
    labels per sample are an (n, k) matrix of zeros and ones. The model's own predictions score higher than
    the true labels, since they are linear in the features.

    Cost: one eigendecomposition, O(n d min(n, d)); the features in float64 are the memory.

    Raises:
        ValueError: if the features are not (n, d) with n ≥ 2 and d ≥ 1, the number of targets differs,
            either holds NaN or infinity, there is one class only, class ids are not integers, labels of
            ``multilabel`` are not 0 or 1, or a column of targets is zero throughout.
        TypeError: if either is complex or text.
    """
    features, targets = _checked(features, targets, task)
    spectrum, _ = _decompose(features, targets, task)
    return _solve(spectrum, tol=1e-4, max_iter=30, solver="hybrid").score.mean().item()


def fit_logme(
    features: Array,
    targets: Array,
    *,
    task: Kind = "classification",
    tol: float = 1e-4,
    max_iter: int = 30,
    solver: Solver = "hybrid",
) -> "LogMEFit":
    """Return the fitted Bayesian linear model behind :func:`logme`: score, precisions, weights, predictions.

    ``solver="fixed_point"`` is the paper's iteration alone (JMLR, Algorithm 3), ``max_iter`` rounds of it;
    ``"hybrid"`` finishes columns that have not settled by bisection, which weak features need.

    Raises:
        ValueError, TypeError: as :func:`logme`.
    """
    features, targets = _checked(features, targets, task)
    spectrum, directions = _decompose(features, targets, task)
    return _fitted(spectrum, directions, tol=tol, max_iter=max_iter, solver=solver)


class LogMEAccumulator:
    """Gather what LogME needs batch by batch, so that features of any number of samples need no storage.

    Holds the (d, d) Gram matrix and per-class sums in float64. Several workers each fill one, and
    :meth:`merge` adds them up.
    """

    def __init__(
        self, num_features: int, task: Kind = "classification", num_classes: int | None = None
    ) -> None:
        self.task: Kind = task
        self.samples = 0
        self.gram = torch.zeros(num_features, num_features, dtype=torch.float64)
        self.cross = torch.zeros(num_classes or 0, num_features, dtype=torch.float64)
        self.energy = torch.zeros(num_classes or 0, dtype=torch.float64)

    def update(self, features: Array, targets: Array) -> None:
        """Add a batch of any size.

        Raises:
            ValueError: as :func:`logme`, or if a batch has another width or number of columns.
        """
        rows, columns = _checked_batch(features, targets, self.task)
        if rows.shape[1] != len(self.gram):
            raise ValueError(
                f"`features` has {rows.shape[1]} columns; this accumulator has {len(self.gram)}."
            )
        if self.task == "classification":
            self._grow(int(columns.max()) + 1 if len(columns) else 0)
            self.cross.index_add_(0, columns, rows)
            self.energy.index_add_(0, columns, torch.ones(len(columns), dtype=torch.float64))
        else:
            if not self.samples and not len(self.cross):
                self._grow(columns.shape[1])
            if columns.shape[1] != len(self.cross):
                raise ValueError(
                    f"`targets` has {columns.shape[1]} columns; before it had {len(self.cross)}."
                )
            self.cross += columns.T @ rows
            self.energy += columns.square().sum(dim=0)
        self.gram.addmm_(rows.T, rows)
        self.samples += len(rows)

    def merge(self, other: "LogMEAccumulator") -> None:
        """Add what ``other`` has gathered.

        Raises:
            ValueError: if the two are for different tasks or feature widths.
        """
        if (self.task, self.gram.shape) != (other.task, other.gram.shape):
            raise ValueError(
                f"`other` gathers {other.task} on {len(other.gram)} features, "
                f"this one {self.task} on {len(self.gram)}."
            )
        classes = max(len(self.cross), len(other.cross))
        self._grow(classes)
        self.gram += other.gram
        self.cross[: len(other.cross)] += other.cross
        self.energy[: len(other.energy)] += other.energy
        self.samples += other.samples

    def fit(self, *, tol: float = 1e-4, max_iter: int = 30, solver: Solver = "hybrid") -> "LogMEFit":
        """Return the fit on everything gathered so far.

        Raises:
            ValueError: as :func:`logme`.
        """
        classes = torch.arange(len(self.cross))
        if self.task == "classification":
            classes = classes[self.energy > 0]
        _check_enough(self.samples, len(classes), self.task)
        energy = _checked_energy(self.energy[classes])
        spectrum, directions = _primal(self.gram, self.cross[classes].T, energy, self.samples, classes)
        return _fitted(spectrum, directions, tol=tol, max_iter=max_iter, solver=solver)

    def _grow(self, classes: int) -> None:
        more = classes - len(self.cross)
        if more > 0:
            self.cross = torch.cat([self.cross, self.cross.new_zeros(more, self.cross.shape[1])])
            self.energy = torch.cat([self.energy, self.energy.new_zeros(more)])


@dataclass(frozen=True, eq=False)
class LogMEFit:
    """A Bayesian linear model per target column; its evidence is the score.

    ``alpha`` is the precision of the weights, ``beta`` of the noise. Where ``signal`` is False the features
    say nothing of that column: its weight is zero and ``alpha`` infinite. ``classes`` holds the class ids
    that occur (or the column numbers), in the order of the other fields' first axis.
    """

    score: float
    per_target: Tensor
    alpha: Tensor
    beta: Tensor
    weight: Tensor
    classes: Tensor
    n_iter: int
    converged: Tensor
    signal: Tensor
    eigenvalues: Tensor
    directions: Tensor

    def predict(self, x: Array) -> Tensor:
        """Return the predictive mean of every column, (m, k)."""
        return checked_features(x) @ self.weight.T

    def predict_std(self, x: Array) -> Tensor:
        """Return the predictive standard deviation of every column, (m, k), noise included."""
        rows = checked_features(x)
        along = (rows @ self.directions).square()
        precision = self.alpha + self.beta * self.eigenvalues[:, None]
        outside = (rows.square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        variance = 1 / self.beta + along @ (1 / precision) + outside[:, None] / self.alpha
        return variance.sqrt()

    def predict_class(self, x: Array) -> Tensor:
        """Return the class id with the largest mean, (m,)."""
        return self.classes[self.predict(x).argmax(dim=1)]


def influence(features: Array, targets: Array, *, task: Kind = "classification") -> Tensor:
    """Return how much each sample adds to the score, (n,); the mean is near the score.

    The derivative of ``n * logme`` by a sample's weight at the fitted precisions, which by the envelope
    theorem need not be differentiated themselves. Its standard deviation over √n is the bootstrap's
    standard error in the limit of many draws (Efron's infinitesimal jackknife) for the price of none.

    Raises:
        ValueError, TypeError: as :func:`logme`.
    """
    rows, columns = _checked(features, targets, task)
    spectrum, directions = _decompose(rows, columns, task)
    fit = _fitted(spectrum, directions, tol=1e-4, max_iter=30, solver="hybrid")
    along = (rows @ fit.directions).square()
    shrunk = fit.beta / (fit.alpha + fit.beta * fit.eigenvalues[:, None])
    leverage = along @ torch.where(fit.signal, shrunk, 0.0)
    residual = _column_matrix(columns, fit.classes, task) - rows @ fit.weight.T
    per_column = 0.5 * (fit.beta.log() - math.log(2 * math.pi) - fit.beta * residual.square() - leverage)
    return per_column.mean(dim=1)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """The problem in the eigenbasis: all that the evidence depends on.

    ``sigma`` (r,): kept squared singular values; ``z2`` (r, k): squared coordinates of the targets along
    them; ``rho`` (k,): energy of the targets outside their span; ``energy`` (k,): all of it.
    ``lift`` maps ``1 / (t + sigma)`` (r, k) to the weights (d, k).
    """

    sigma: Tensor
    z2: Tensor
    rho: Tensor
    energy: Tensor
    samples: int
    classes: Tensor
    lift: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _Solution:
    t: Tensor
    score: Tensor
    n_iter: int
    converged: Tensor
    signal: Tensor


def _decompose(rows: Tensor, columns: Tensor, task: Kind) -> tuple[_Spectrum, Callable[[], Tensor]]:
    """Spectrum from the smaller of the two Gram matrices, and how to get the right singular vectors."""
    n, d = rows.shape
    classes, ids = _compact(columns, task)
    energy = _checked_energy(_energy(ids, len(classes), task))
    if d <= n:
        cross = _class_sums(rows, ids, len(classes), task).T
        return _primal(rows.T @ rows, cross, energy, n, classes)
    return _dual(rows, ids, energy, classes, task)


def _primal(
    gram: Tensor, cross: Tensor, energy: Tensor, samples: int, classes: Tensor
) -> tuple[_Spectrum, Callable[[], Tensor]]:
    """From FᵀF (d, d) and FᵀY (d, k)."""
    sigma, vectors = _kept(gram, samples, len(gram))
    along = vectors.T @ cross
    z2 = along.square() / sigma[:, None]
    spectrum = _spectrum(sigma, z2, energy, samples, classes, lambda shrink: vectors @ (shrink * along))
    return spectrum, lambda: vectors


def _dual(
    rows: Tensor, ids: Tensor, energy: Tensor, classes: Tensor, task: Kind
) -> tuple[_Spectrum, Callable[[], Tensor]]:
    """From FFᵀ (n, n), for fewer samples than features."""
    n, d = rows.shape
    sigma, vectors = _kept(rows @ rows.T, n, d)
    z = _class_sums(vectors, ids, len(classes), task).T
    spectrum = _spectrum(
        sigma, z.square(), energy, n, classes, lambda shrink: rows.T @ (vectors @ (shrink * z))
    )
    return spectrum, lambda: (rows.T @ vectors) / sigma.sqrt()


def _kept(gram: Tensor, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues above rounding error (at most min(n, d) of them) and their vectors, largest first."""
    sigma, vectors = torch.linalg.eigh(gram)
    sigma, vectors = sigma.flip(0), vectors.flip(1)
    floor = max(n, d) * torch.finfo(torch.float64).eps * sigma[:1].clamp(min=0)
    rank = min(int((sigma > floor).sum()), n, d)
    return sigma[:rank], vectors[:, :rank]


def _spectrum(
    sigma: Tensor, z2: Tensor, energy: Tensor, samples: int, classes: Tensor, lift: Callable[[Tensor], Tensor]
) -> _Spectrum:
    rho = (energy - z2.sum(dim=0)).clamp(min=0)
    # An exact linear fit has unbounded evidence; with as many directions as samples nothing lies outside.
    rho = rho.clamp(min=1e-10 * energy) if len(sigma) < samples else torch.zeros_like(rho)
    return _Spectrum(sigma, z2, rho, energy, samples, classes, lift)


def _solve(spectrum: _Spectrum, *, tol: float, max_iter: int, solver: Solver) -> _Solution:
    """The ratio t = alpha / beta that maximises the evidence, for all columns at once."""
    none = _no_signal_score(spectrum)
    columns = len(spectrum.energy)
    if not len(spectrum.sigma):
        nothing = torch.zeros(columns, dtype=torch.bool)
        return _Solution(torch.full((columns,), math.inf, dtype=torch.float64), none, 0, ~nothing, nothing)
    t, n_iter, converged = _iterate(spectrum, tol, max_iter)
    if solver == "hybrid" and not bool(converged.all()):
        t = torch.where(converged, t, _bracketed(spectrum, t))
        converged = torch.ones_like(converged)
    score = _evidence(spectrum, t)
    # At the upper end of the search the evidence still rises: weights of zero are best.
    signal = (score > none) & (t < _limits(spectrum)[1])
    return _Solution(
        torch.where(signal, t, math.inf), torch.where(signal, score, none), n_iter, converged, signal
    )


def _iterate(spectrum: _Spectrum, tol: float, max_iter: int) -> tuple[Tensor, int, Tensor]:
    """The paper's fixed point as one map of t, from the mean eigenvalue, so that scale does not matter."""
    low, high = _limits(spectrum)
    t = spectrum.sigma.mean().expand(len(spectrum.energy)).clone()
    converged = torch.zeros(len(t), dtype=torch.bool)
    for rounds in range(1, max_iter + 1):
        following = torch.where(converged, t, _fixed_point_map(spectrum, t).clamp(low, high))
        settled = (following - t).abs() <= tol * t
        t = following
        converged = settled & (t > low) & (t < high)
        if bool(converged.all()):
            return t, rounds, converged
    return t, max_iter, converged


def _fixed_point_map(spectrum: _Spectrum, t: Tensor) -> Tensor:
    gamma, rest, weight, error = _moments(spectrum, t)
    return torch.nan_to_num(gamma / rest * error / weight, nan=math.inf, posinf=math.inf)


def _moments(spectrum: _Spectrum, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Effective number of parameters γ, n − γ, ‖m‖² and ‖Fm − y‖² at t, each (k,)."""
    total = spectrum.sigma[:, None] + t
    gamma = (spectrum.sigma[:, None] / total).sum(dim=0)
    rest = (spectrum.samples - len(spectrum.sigma)) + (t / total).sum(dim=0)
    shares = spectrum.z2 / total.square()
    weight = (spectrum.sigma[:, None] * shares).sum(dim=0)
    error = t.square() * shares.sum(dim=0) + spectrum.rho
    return gamma, rest, weight, error


def _slope(spectrum: _Spectrum, t: Tensor) -> Tensor:
    """A positive multiple of the derivative of the profile evidence by ln t."""
    total = spectrum.sigma[:, None] + t
    gamma = (spectrum.sigma[:, None] / total).sum(dim=0)
    quality = spectrum.rho + t * (spectrum.z2 / total).sum(dim=0)
    weight = (spectrum.sigma[:, None] * spectrum.z2 / total.square()).sum(dim=0)
    return gamma * quality - spectrum.samples * t * weight


def _bracketed(spectrum: _Spectrum, t: Tensor) -> Tensor:
    """Walk by fours until the slope changes sign or a limit is met, then bisect in ln t."""
    low, high = _limits(spectrum)
    t = t.clamp(low, high)
    rising = _slope(spectrum, t) > 0
    inner = outer = t
    walking = torch.ones_like(rising)
    while bool(walking.any()):
        inner = torch.where(walking, outer, inner)
        outer = torch.where(walking, torch.where(rising, outer * 4, outer / 4).clamp(low, high), outer)
        walking &= ((_slope(spectrum, outer) > 0) == rising) & (outer > low) & (outer < high)
    stuck = (_slope(spectrum, outer) > 0) == rising
    left, right = torch.minimum(inner, outer).log(), torch.maximum(inner, outer).log()
    for _ in range(60):
        middle = (left + right) / 2
        up = _slope(spectrum, middle.exp()) > 0
        left, right = torch.where(up, middle, left), torch.where(up, right, middle)
    return torch.where(stuck, outer, ((left + right) / 2).exp())


def _limits(spectrum: _Spectrum) -> tuple[float, float]:
    return 1e-10 * float(spectrum.sigma[-1]), 1e12 * float(spectrum.sigma[0])


def _evidence(spectrum: _Spectrum, t: Tensor) -> Tensor:
    """Profile evidence per sample: that of t with the best noise level for it."""
    n = spectrum.samples
    quality = spectrum.rho + t * (spectrum.z2 / (spectrum.sigma[:, None] + t)).sum(dim=0)
    volume = torch.log1p(spectrum.sigma[:, None] / t).sum(dim=0) / n
    return 0.5 * ((n / quality).log() - math.log(2 * math.pi) - 1 - volume)


def _no_signal_score(spectrum: _Spectrum) -> Tensor:
    return -0.5 * ((2 * math.pi * spectrum.energy / spectrum.samples).log() + 1)


def _fitted(
    spectrum: _Spectrum, directions: Callable[[], Tensor], *, tol: float, max_iter: int, solver: Solver
) -> LogMEFit:
    if tol <= 0 or max_iter < 1:
        raise ValueError(f"`tol={tol}` must be positive and `max_iter={max_iter}` at least 1.")
    found = _solve(spectrum, tol=tol, max_iter=max_iter, solver=solver)
    total = spectrum.sigma[:, None] + found.t
    quality = spectrum.rho + (spectrum.z2 / (1 + spectrum.sigma[:, None] / found.t)).sum(dim=0)
    beta = spectrum.samples / quality
    return LogMEFit(
        score=found.score.mean().item(),
        per_target=found.score,
        alpha=beta * found.t,
        beta=beta,
        weight=spectrum.lift(1 / total).T,
        classes=spectrum.classes,
        n_iter=found.n_iter,
        converged=found.converged,
        signal=found.signal,
        eigenvalues=spectrum.sigma,
        directions=directions(),
    )


def _compact(columns: Tensor, task: Kind) -> tuple[Tensor, Tensor]:
    """Class ids that occur, and the targets counted among them (or the columns as they are)."""
    if task == "classification":
        return torch.unique(columns, return_inverse=True)
    return torch.arange(columns.shape[1]), columns


def _class_sums(rows: Tensor, ids: Tensor, classes: int, task: Kind) -> Tensor:
    """YᵀF (k, d) without ever building one-hot columns."""
    if task == "classification":
        return rows.new_zeros(classes, rows.shape[1]).index_add_(0, ids, rows)
    return ids.T @ rows


def _energy(ids: Tensor, classes: int, task: Kind) -> Tensor:
    if task == "classification":
        return torch.bincount(ids, minlength=classes).double()
    return ids.square().sum(dim=0)


def _column_matrix(columns: Tensor, classes: Tensor, task: Kind) -> Tensor:
    return (columns[:, None] == classes).double() if task == "classification" else columns


def _checked(features: Array, targets: Array, task: Kind) -> tuple[Tensor, Tensor]:
    rows, columns = _checked_batch(features, targets, task)
    classes = len(torch.unique(columns)) if task == "classification" else columns.shape[1]
    _check_enough(len(rows), classes, task)
    return rows, columns


def _checked_batch(features: Array, targets: Array, task: Kind) -> tuple[Tensor, Tensor]:
    """Features as (n, d) float64 and targets as (n,) int64 or (n, k) float64, on the CPU."""
    rows = checked_features(features)
    if task == "classification":
        return rows, checked_class_ids(targets, len(rows))
    columns = checked_columns(targets, len(rows))
    if task == "multilabel" and not bool(((columns == 0) | (columns == 1)).all()):
        raise ValueError("`targets` of task='multilabel' must be 0 or 1; use task='regression' for numbers.")
    return rows, columns


def _check_enough(samples: int, classes: int, task: Kind) -> None:
    if samples < 2:
        raise ValueError(f"`features` has {samples} rows; LogME needs at least 2 samples.")
    if task == "classification" and classes < 2:
        raise ValueError("`targets` holds a single class: there is nothing to tell apart.")


def _checked_energy(energy: Tensor) -> Tensor:
    if bool((energy == 0).any()):
        empty = torch.nonzero(energy == 0).flatten().tolist()
        raise ValueError(
            f"`targets`: columns {empty[:5]} are zero throughout and their evidence has no bound. "
            "Leave them out."
        )
    return energy
