"""Pick among trained models the one likely to hold in unseen domains (OOD selection)."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.features import extract
from torchard.core.method import Method
from torchard.core.surgery import classifier_name
from torchard.select.inputs import Array, checked_class_ids, checked_features

METHOD = Method(
    shapes=("measure",),
    source="Ye et al., NeurIPS 2021, arXiv 2106.04496",
    claim="Accuracy less the features' variation between domains picks better models for new domains.",
)

Bandwidth = Literal["pooled", "per_feature"] | float | int
Missing = Literal["refuse", "skip"]
FEWEST = 5  # samples of a class in a domain
MOST_GRID = 1 << 14
CHUNK = 1 << 22  # grid cells held at once


def select_ood(
    accuracies: Float[Tensor, " m"], variations: Float[Tensor, " _"], *, margin: float = 0.1
) -> "OODSelection":
    """Return the candidate with the best accuracy less weighted variation.

    Ye et al. 2021: the weight is the ratio of the standard deviations of accuracy and variation over the
    candidates within ``margin`` of the best accuracy. Candidates whose variation is NaN (no informative
    feature) are out. Ties go to the higher accuracy, then the lower variation. Where variations do not
    differ, accuracy alone decides, with a warning.

    Raises:
        ValueError: if lengths differ, accuracies are not in 0…1, or all variations are NaN.
    """
    accuracies, variations = accuracies.double(), variations.double()
    _check_candidates(accuracies, variations)
    kept = (accuracies > accuracies.max() - margin) & variations.isfinite()
    weight = _weight(accuracies[kept], variations[kept])
    scores = torch.where(variations.isfinite(), accuracies - weight * variations, -math.inf)
    order = sorted(
        range(len(scores)), key=lambda i: (-float(scores[i]), -float(accuracies[i]), float(variations[i]))
    )
    return OODSelection(order[0], scores, weight, kept)


@dataclass(frozen=True, eq=False)
class OODSelection:
    """The chosen candidate's position, every candidate's score, the weight of variation, and who set it."""

    index: int
    scores: Tensor
    weight: float
    kept: Tensor
    names: tuple[str, ...] = ()

    @property
    def chosen(self) -> str:
        """The chosen candidate's name, or its position where candidates have none."""
        return self.names[self.index] if self.names else str(self.index)


def select_model(
    candidates: Mapping[str, nn.Module],
    loaders: Mapping[str, Iterable[Any]],
    *,
    layer: str | None = None,
    min_informativeness: float = 0.3,
    bandwidth: Bandwidth = "pooled",
    margin: float = 0.1,
) -> OODSelection:
    """Return the candidate to trust in an unseen domain, given held-out batches of each training domain.

    Accuracy is the mean over domains, variation that of the features before the classifier (or of
    ``layer``). Two passes per candidate and domain. The loaders must hold the same samples for all.

    Raises:
        ValueError: if there are no candidates, or as :func:`ood_measures` and :func:`select_ood`.
    """
    if not candidates:
        raise ValueError("`candidates` is empty: there is nothing to select.")
    accuracies, variations = [], []
    for model in candidates.values():
        accuracies.append(sum(_accuracy(model, batches) for batches in loaders.values()) / len(loaders))
        features, targets, domains = _gathered(model, loaders, layer)
        measures = ood_measures(features, targets, domains, bandwidth=bandwidth)
        variations.append(measures.model_variation(min_informativeness))
    picked = select_ood(torch.tensor(accuracies), torch.tensor(variations), margin=margin)
    return OODSelection(picked.index, picked.scores, picked.weight, picked.kept, tuple(candidates))


@dataclass(frozen=True, eq=False)
class OODMeasures:
    """How much each feature varies between domains, and how much it tells of the class; all in 0…1.

    ``per_class_variation`` is (k, d); ``variation`` its maximum over classes.
    """

    variation: Tensor
    informativeness: Tensor
    per_class_variation: Tensor
    bandwidth: Tensor

    def model_variation(self, min_informativeness: float = 0.3) -> float:
        """Return the mean variation of the informative features, NaN if there are none.

        0.3 is the threshold of the authors' code; their text averages over all features, which is 0.
        """
        informative = self.informativeness >= min_informativeness
        return self.variation[informative].mean().item() if bool(informative.any()) else math.nan


def ood_measures(
    features: Array,
    targets: Array,
    domains: Array,
    *,
    bandwidth: Bandwidth = "pooled",
    grid_size: int = 1000,
    missing: Missing = "refuse",
) -> OODMeasures:
    """Return variation and informativeness of every feature, by densities of each class in each domain.

    Ye et al. 2021, with total variation between Gaussian kernel densities.
    ``bandwidth="pooled"`` is one number for all features as in the authors' code; ``"per_feature"`` (ours)
    follows each feature's own scale, better for comparing architectures; a number is taken as it is.
    ``missing="skip"`` leaves out pairs of a class and a domain that do not occur. Samples are binned on a
    grid per feature and smoothed by FFT: O(d · cells · grid log grid) time, error below 0.001.

    Raises:
        ValueError: if there are fewer than two domains or classes, a class is missing in a domain or has
            fewer than 5 samples there, lengths differ, or features hold NaN.
        TypeError: if anything is complex or text.
    """
    rows = checked_features(features)
    cells = _cells(rows, targets, domains, missing)
    widths = _bandwidths(rows, cells, bandwidth)
    per_class = torch.zeros(len(cells.classes), rows.shape[1], dtype=torch.float64)
    informativeness = torch.zeros(rows.shape[1], dtype=torch.float64)
    for chunk, densities, step in _densities(rows, cells, widths, grid_size):
        distance = _distances(cells, densities, step)
        per_class[:, chunk] = _variation(cells, distance)
        informativeness[chunk] = _informativeness(cells, distance)
    return OODMeasures(per_class.amax(dim=0), informativeness, per_class, widths)


def feature_variation(
    features: Array,
    targets: Array,
    domains: Array,
    *,
    bandwidth: Bandwidth = "pooled",
    grid_size: int = 1000,
    direction: Tensor | None = None,
) -> Float[Tensor, " d"]:
    """Return :func:`ood_measures`' variation of every feature, or of the one feature along ``direction``.

    Raises:
        ValueError, TypeError: as :func:`ood_measures`.
    """
    rows = checked_features(features)
    rows = rows if direction is None else rows @ direction.double()[:, None]
    return ood_measures(rows, targets, domains, bandwidth=bandwidth, grid_size=grid_size).variation


def feature_informativeness(
    features: Array, targets: Array, domains: Array, *, bandwidth: Bandwidth = "pooled", grid_size: int = 1000
) -> Float[Tensor, " d"]:
    """Return :func:`ood_measures`' informativeness of every feature.

    Raises:
        ValueError, TypeError: as :func:`ood_measures`.
    """
    return ood_measures(features, targets, domains, bandwidth=bandwidth, grid_size=grid_size).informativeness


def max_variation_direction(
    features: Array, targets: Array, domains: Array, *, steps: int = 100, seed: int = 0
) -> tuple[float, Float[Tensor, " d"]]:
    """Return the largest variation found along any unit vector, and that vector: a lower bound of V^sup.

    Ye et al. 2021, the vector version of variation. Gradient ascent on the total variation of projected
    features, from the most varying single feature and from three random directions; never less than the
    former, at the pooled bandwidth.

    Raises:
        ValueError, TypeError: as :func:`ood_measures`.
    """
    rows = checked_features(features)
    cells = _cells(rows, targets, domains, "refuse")
    width = float(_bandwidths(rows, cells, "pooled")[0])
    single = feature_variation(rows, targets, domains, bandwidth=width)
    best = torch.zeros(rows.shape[1], dtype=torch.float64)
    best[single.argmax()] = 1
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(3, rows.shape[1], generator=generator, dtype=torch.float64)
    ends = [_ascended(rows, cells, width, start, steps) for start in (best, *random)]
    found = [feature_variation(rows, targets, domains, bandwidth=width, direction=end)[0] for end in ends]
    value, place = torch.stack([single.max(), *found]).max(dim=0)
    return value.item(), [best, *ends][int(place)]


def expansion_function(
    available: Float[Tensor, " _"],
    everywhere: Float[Tensor, " _"],
    informativeness: Float[Tensor, " _"],
    delta: float,
) -> "ExpansionFunction":
    """Return how variation on the available domains grows on all domains, for features with I ≥ ``delta``.

    Ye et al. 2021, estimated as the upper staircase of the points (``available``,
    ``everywhere``), one a feature; never below the diagonal. A larger ``delta`` never raises it.

    Raises:
        ValueError: if lengths differ or no feature is informative enough.
    """
    if not len(available) == len(everywhere) == len(informativeness):
        raise ValueError("`available`, `everywhere` and `informativeness` must be of one length.")
    chosen = informativeness >= delta
    if not bool(chosen.any()):
        raise ValueError(
            f"`delta={delta}`: no feature is that informative; the most is {informativeness.max():.3f}."
        )
    order = available[chosen].argsort()
    steps = everywhere[chosen][order].cummax(dim=0).values
    return ExpansionFunction(torch.stack([available[chosen][order], steps], dim=1).double())


@dataclass(frozen=True, eq=False)
class ExpansionFunction:
    """A staircase: ``points`` (p, 2) are where it rises, sorted, and to what."""

    points: Tensor

    def __call__(self, x: float) -> float:
        """Return the variation to expect everywhere of a feature that varies by ``x`` where we looked."""
        below = self.points[:, 0] <= x
        return max(x, self.points[below, 1].max().item() if bool(below.any()) else 0.0)

    @property
    def slope(self) -> float:
        """The largest growth factor of any feature; infinite if one that did not vary does elsewhere."""
        return (self.points[:, 1] / self.points[:, 0]).nan_to_num(1.0, posinf=math.inf).max().item()

    def is_learnable(self, tolerance: float = 0.1) -> bool:
        """Return whether features that hardly vary (half the ``tolerance``) vary little everywhere."""
        return self(tolerance / 2) <= tolerance


@dataclass(frozen=True, eq=False)
class _Cells:
    """The samples of each class in each domain, by position among the classes and domains that occur."""

    classes: Tensor
    domains: Tensor
    members: Mapping[tuple[int, int], Tensor]


def _cells(rows: Tensor, targets: Array, domains: Array, missing: Missing) -> _Cells:
    labels = checked_class_ids(targets, len(rows))
    places = checked_class_ids(domains, len(rows))
    classes, domain_ids = labels.unique(), places.unique()
    for name, found in (("domains", domain_ids), ("targets", classes)):
        if len(found) < 2:
            raise ValueError(f"`{name}` holds {len(found)} kind; at least 2 are needed to see what varies.")
    members = {}
    for k, label in enumerate(classes):
        for e, place in enumerate(domain_ids):
            cell = torch.nonzero((labels == label) & (places == place)).flatten()
            if len(cell) == 0 and missing == "skip":
                continue
            if len(cell) < FEWEST:
                raise ValueError(
                    f"class {int(label)} has {len(cell)} samples in domain {int(place)}, not {FEWEST}. "
                    "missing='skip' leaves out those that do not occur at all."
                )
            members[k, e] = cell
    return _Cells(classes, domain_ids, members)


def _bandwidths(rows: Tensor, cells: _Cells, bandwidth: Bandwidth) -> Tensor:
    """The width of the kernel for each feature; never so small that a grid could not show it."""
    extent = rows.amax(dim=0) - rows.amin(dim=0)
    if isinstance(bandwidth, float | int):
        if not bandwidth > 0:
            raise ValueError(f"`bandwidth={bandwidth}` must be positive.")
        return torch.full_like(extent, float(bandwidth))
    spread = torch.stack([rows[cell].std(dim=0) for cell in cells.members.values()]).mean(dim=0)
    spread = spread.mean().expand_as(spread) if bandwidth == "pooled" else spread
    largest = max(len(cell) for cell in cells.members.values())
    least = extent if bandwidth == "per_feature" else extent.max().expand_as(extent)
    return torch.maximum(1.06 * largest**-0.2 * spread, 1e-3 * least)


def _densities(
    rows: Tensor, cells: _Cells, widths: Tensor, grid_size: int
) -> Iterator[tuple[Tensor, dict[tuple[int, int], Tensor], Tensor]]:
    """Densities (features, grid) of every cell and the grid's step, one chunk of features at a time."""
    low, high = rows.amin(dim=0) - 4 * widths, rows.amax(dim=0) + 4 * widths
    # fine enough to show the kernel where a feature's range is many kernels wide
    wanted = 2 * ((high - low) / widths.clamp(min=1e-300)).max()
    size = int(min(max(grid_size, wanted.nan_to_num(0.0).item()), MOST_GRID))
    together = max(1, CHUNK // (2 * size * len(cells.members)))
    for chunk in torch.arange(rows.shape[1]).split(together):
        step = ((high - low)[chunk] / (size - 1)).clamp(min=1e-300)
        place = (rows[:, chunk] - low[chunk]) / step
        kernel = _kernel(widths[chunk] / step, size)
        yield (
            chunk,
            {
                key: _smoothed(place[cell], kernel, size) / step[:, None]
                for key, cell in cells.members.items()
            },
            step,
        )


def _kernel(width: Tensor, size: int) -> Tensor:
    """Fourier transform of a Gaussian of ``width`` grid steps, for grids padded to twice ``size``."""
    frequency = torch.fft.rfftfreq(2 * size, dtype=torch.float64)
    return torch.exp(-2 * (math.pi * width[:, None] * frequency) ** 2)


def _smoothed(place: Tensor, kernel: Tensor, size: int) -> Tensor:
    """Share of the samples at each grid point, split between its two neighbours, then smoothed."""
    left = place.floor().clamp(0, size - 2)
    share = place - left
    counts = torch.zeros(place.shape[1], size, dtype=torch.float64)
    counts.scatter_add_(1, left.long().T, (1 - share).T)
    counts.scatter_add_(1, left.long().T + 1, share.T)
    smooth = torch.fft.irfft(torch.fft.rfft(counts, n=2 * size) * kernel, n=2 * size)
    return smooth[:, :size].clamp(min=0) / len(place)


Distance = Callable[[tuple[int, int], tuple[int, int]], Tensor]


def _distances(cells: _Cells, densities: Mapping[tuple[int, int], Tensor], step: Tensor) -> Distance:
    """Total variation between two cells' densities, for every feature of the chunk."""

    def distance(first: tuple[int, int], second: tuple[int, int]) -> Tensor:
        return (0.5 * (densities[first] - densities[second]).abs().sum(dim=1) * step).clamp(max=1)

    return distance


def _variation(cells: _Cells, distance: Distance) -> Tensor:
    """For each class the largest distance between two domains; 0 for one that occurs in a single domain."""
    rows = []
    for k in range(len(cells.classes)):
        here = [key for key in cells.members if key[0] == k]
        found = [distance(a, b) for a, b in combinations(here, 2)]
        rows.append(torch.stack(found).amax(dim=0) if found else torch.zeros_like(distance(here[0], here[0])))
    return torch.stack(rows)


def _informativeness(cells: _Cells, distance: Distance) -> Tensor:
    """Mean over pairs of classes of the least distance in any domain that has both."""
    least = []
    for a, b in combinations(range(len(cells.classes)), 2):
        both = [e for e in range(len(cells.domains)) if {(a, e), (b, e)} <= cells.members.keys()]
        if both:
            least.append(torch.stack([distance((a, e), (b, e)) for e in both]).amin(dim=0))
    if not least:
        raise ValueError("no domain holds two classes: nothing can be said of what a feature tells.")
    return torch.stack(least).mean(dim=0)


def _ascended(rows: Tensor, cells: _Cells, width: float, start: Tensor, steps: int) -> Tensor:
    """A unit vector from ``start`` uphill on the largest total variation."""
    vector = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([vector], lr=0.05)
    pairs = [(a, b) for a, b in combinations(cells.members, 2) if a[0] == b[0]]
    with torch.enable_grad():
        for _ in range(steps):
            projected = rows @ (vector / vector.norm())
            ends = projected.detach().aminmax()
            grid = torch.linspace(float(ends.min) - 3 * width, float(ends.max) + 3 * width, 200)
            densities = {
                key: _kernel_density(projected[cell], grid, width) for key, cell in cells.members.items()
            }
            step = float(grid[1] - grid[0])
            worst = torch.stack(
                [0.5 * step * (densities[a] - densities[b]).abs().sum() for a, b in pairs]
            ).max()
            optimizer.zero_grad()
            (-worst).backward()
            optimizer.step()
    return (vector / vector.norm()).detach()


def _kernel_density(samples: Tensor, grid: Tensor, width: float) -> Tensor:
    apart = (grid[:, None].double() - samples) / width
    return torch.exp(-0.5 * apart.square()).mean(dim=1) / (width * math.sqrt(2 * math.pi))


def _weight(accuracies: Tensor, variations: Tensor) -> float:
    spread = variations.std(correction=0).item() if len(variations) else 0.0
    # equal numbers differ by rounding when they come from means
    if len(variations) < 2 or spread <= 1e-12 * variations.abs().max().item():
        warnings.warn(
            "variations do not differ among the best candidates: accuracy alone decides.", stacklevel=3
        )
        return 0.0
    return accuracies.std(correction=0).item() / spread


def _check_candidates(accuracies: Tensor, variations: Tensor) -> None:
    if len(accuracies) != len(variations) or not len(accuracies):
        raise ValueError(
            f"`accuracies` has {len(accuracies)} entries and `variations` {len(variations)}; they must agree."
        )
    if not bool(((accuracies >= 0) & (accuracies <= 1)).all()):
        raise ValueError("`accuracies` must lie between 0 and 1.")
    if not bool(variations.isfinite().any()):
        raise ValueError(
            "`variations` are all NaN: no candidate has an informative feature. Lower the threshold."
        )


def _gathered(
    model: nn.Module, loaders: Mapping[str, Iterable[Any]], layer: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and domain numbers of all loaders; labels from the same pass, so any order will do."""
    parts = []
    for number, batches in enumerate(loaders.values()):
        labels: list[Tensor] = []
        features = extract(model, _noting_labels(batches, labels), layer=layer)
        parts.append((features, torch.cat(labels), torch.full((len(features),), number)))
    features, targets, domains = (torch.cat(column) for column in zip(*parts, strict=True))
    return features, targets, domains


def _accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    labels: list[Tensor] = []
    scores = extract(model, _noting_labels(batches, labels), layer=classifier_name(model))
    return (scores.argmax(dim=1) == torch.cat(labels)).double().mean().item()


def _noting_labels(batches: Iterable[Any], labels: list[Tensor]) -> Iterator[Tensor]:
    for batch in batches:
        inputs, targets = (batch.inputs, batch.targets) if hasattr(batch, "inputs") else batch[:2]
        labels.append(targets)
        yield inputs
