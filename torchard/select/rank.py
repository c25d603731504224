"""Rank pre-trained models for a task from one forward pass each."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchard import hub
from torchard.core import checkpoint
from torchard.core.budget import count_macs, count_params, human
from torchard.core.data import InputSpec, Loader, Split, Task
from torchard.core.errors import FileRefusedError, UsageError
from torchard.core.features import extract
from torchard.core.run import content_key
from torchard.select.ranking import Ranking, Row, low_if_none
from torchard.select.scorers import (
    KNN,
    LOGME,
    JointScorer,
    Look,
    Scorer,
    named,
    pieces,
    scorers,
    standard_error,
)
from torchard.select.workers import Engine, run_jobs

BATCH = 64
TIE_ERRORS = 2.0  # models closer than so many standard errors of their difference are called tied


def rank(
    models: Mapping[str, nn.Module] | Sequence[str],
    data: Task | Iterable[Any],
    *,
    scorer: Scorer = LOGME,
    beside: Sequence[Scorer | JointScorer] = (KNN,),
    samples: int | None = 1000,
    seed: int = 0,
    layer: str | None = None,
    device: torch.device | str | None = None,
    cache: Path | None = None,
    workers: int = 1,
    engine: Engine = "local",
    progress: Callable[[str], None] = lambda name: None,
) -> Ranking:
    """Return the models ordered by ``scorer`` on what they make of the data, with costs and error bars.

    Each model runs once, in eval mode, over the same ``samples`` training images (drawn evenly by class;
    None takes all), at its own input size and normalisation; its features are what its classifier sees, or
    the output of ``layer``. Names are loaded from the hub one after another. It runs on ``device`` (default:
    where it is) and leaves for its place again. ``data`` may also be a loader of batches, which are then
    given to every model as they are. The validation and test images of a task are not looked at.

    Errors are standard errors over the samples. Models whose difference from the best is within two
    standard errors of that difference, on the same samples, are tied, and the cheapest is chosen. Features
    are kept in ``cache`` under a hash of weights, images and input, so that a second call costs seconds.

    ``workers`` processes share the models, each with its part of the threads; with ``engine="ray"`` they are
    those of the Ray cluster this program is connected to, or of one started on this machine for the call
    (on a cluster, ``cache`` and the images must be at the same path everywhere). Numbers are those of one
    process up to rounding. A model that fails, or whose process dies, is named in ``failed`` with the reason,
    and the others are ranked. Programs that use workers need ``if __name__ == "__main__":``.

    Raises:
        ValueError: if there are no models or no data, or all of them fail, as when none says what input it
            wants.
        UsageError: if a name is unknown, or ``cache`` or ``workers`` is given with a loader, whose content
            has no name, or a model or scorer cannot be sent to another process.
        MissingExtraError: if Ray is wanted and not installed.
    """
    if not models:
        raise ValueError("`models` is empty: there is nothing to rank.")
    apart = workers != 1 or engine != "local"
    if (cache is not None or apart) and not isinstance(data, Task):
        option = "workers" if cache is None else "cache"
        raise UsageError(f"`{option}` needs a task: the batches of a loader have no name to find them by.")
    start = time.perf_counter()
    scene = _scene(data, samples, seed, layer, device, cache)
    run = _apart if apart else _here
    outcomes = run(_sources(models), scene, scorer, beside, progress, workers=workers, engine=engine)
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, _Failed)}
    judged = [outcome for outcome in outcomes.values() if isinstance(outcome, _Judged)]
    if not judged:
        raise _all_failed(failed)
    ranking = _ranking(_joined(judged, beside), scorer, time.perf_counter() - start)
    return replace(ranking, failed={name: failure.reason for name, failure in failed.items()})


# How one model is looked at: what it shows of the samples, and the size of image it was given.
_Scene = Callable[[str, nn.Module], tuple[Look, tuple[int, int]]]


@dataclass(frozen=True, eq=False)
class _Judged:
    """A row before its gap is known, with what says how sure its score is and what waits for others."""

    row: Row
    pieces: Tensor | None
    terms: Mapping[str, tuple[float, float]]
    samples: int


@dataclass(frozen=True)
class _Failed:
    """Why a model could not be ranked, and whether the call is to blame."""

    reason: str
    misused: bool = False


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A model to look at, and how: all that another process needs. Scorers go by their names."""

    name: str
    source: str
    model: nn.Module | None  # None: the hub has it under the name
    scene: _Scene
    scorer: str
    beside: tuple[str, ...]


def _here(
    models: Mapping[str, tuple[str, nn.Module | None]],
    scene: _Scene,
    scorer: Scorer,
    beside: Sequence[Scorer | JointScorer],
    progress: Callable[[str], None],
    **_: Any,
) -> dict[str, _Judged | _Failed]:
    outcomes: dict[str, _Judged | _Failed] = {}
    for name, (source, model) in models.items():
        progress(name)
        outcomes[name] = _attempt(name, source, model, scene, scorer, beside)
    return outcomes


def _apart(
    models: Mapping[str, tuple[str, nn.Module | None]],
    scene: _Scene,
    scorer: Scorer,
    beside: Sequence[Scorer | JointScorer],
    progress: Callable[[str], None],
    *,
    workers: int,
    engine: Engine,
) -> dict[str, _Judged | _Failed]:
    """The same from other processes; ``progress`` hears of a model when it is done."""
    words = (_name_of(scorer), tuple(_name_of(one) for one in beside))
    candidates = {name: _Candidate(name, *model, scene, *words) for name, model in models.items()}
    outcomes: dict[str, _Judged | _Failed] = {}
    for name, outcome in run_jobs(_attempt_candidate, candidates, workers=workers, engine=engine):
        progress(name)
        outcomes[name] = _Failed(str(outcome)) if isinstance(outcome, Exception) else outcome
    return {name: outcomes[name] for name in models}


def _attempt_candidate(candidate: _Candidate) -> "_Judged | _Failed":
    first, others = named(candidate.scorer), [named(name) for name in candidate.beside]
    assert isinstance(first, Scorer)
    return _attempt(candidate.name, candidate.source, candidate.model, candidate.scene, first, others)


def _attempt(
    name: str,
    source: str,
    model: nn.Module | None,
    scene: _Scene,
    scorer: Scorer,
    beside: Sequence[Scorer | JointScorer],
) -> "_Judged | _Failed":
    """What became of one model; whatever goes wrong with it must not cost the others."""
    try:
        return _judged(name, source, hub.load(name) if model is None else model, scene, scorer, beside)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return _Failed(reason, isinstance(error, UsageError))


def _name_of(scorer: Scorer | JointScorer) -> str:
    if scorers().get(scorer.name) is not scorer:
        raise UsageError(f"the scorer {scorer.name!r} is your own and cannot be sent to another process.")
    return scorer.name


def _all_failed(failed: Mapping[str, _Failed]) -> ValueError:
    kind = UsageError if all(failure.misused for failure in failed.values()) else ValueError
    return kind("; ".join(f"{name}: {failure.reason}" for name, failure in failed.items()))


def _scene(
    data: Task | Iterable[Any],
    samples: int | None,
    seed: int,
    layer: str | None,
    device: torch.device | str | None,
    cache: Path | None,
) -> _Scene:
    if not isinstance(data, Task):
        return lambda name, model: _looked_at_loader(model, data, layer, device)
    return _TaskScene(_subsample(data.train, samples, seed), data.fingerprint, layer, device, cache)


@dataclass(frozen=True, eq=False)
class _TaskScene:
    """A task's samples, looked at by each model at its own input, and remembered in ``cache``."""

    split: Split
    fingerprint: str
    layer: str | None
    device: torch.device | str | None
    cache: Path | None

    def __call__(self, name: str, model: nn.Module) -> tuple[Look, tuple[int, int]]:
        spec = _spec(model)
        if self.cache is None:
            return _looked_at_split(model, self.split, spec, self.layer, self.device), spec.size
        facts = {"format": 1, "data": self.fingerprint, "input": spec.to_json(), "layer": self.layer}
        key = content_key({**facts, "samples": list(self.split.names), "weights": _digest(model)})
        file = self.cache / f"{key}.safetensors"
        fresh = partial(_looked_at_split, model, self.split, spec, self.layer, self.device)
        return _remembered(file, self.split, fresh), spec.size


def _judged(
    name: str,
    source: str,
    model: nn.Module,
    scene: _Scene,
    scorer: Scorer,
    beside: Sequence[Scorer | JointScorer],
) -> _Judged:
    start = time.perf_counter()
    look, size = scene(name, model)
    score = _score(scorer, look)
    parts = pieces(scorer, look) if scorer.fits(look) else None
    others = {one.name: _score(one, look) for one in beside if isinstance(one, Scorer)}
    terms = {one.name: one.terms(look) for one in beside if isinstance(one, JointScorer)}
    row = Row(
        model=name,
        source=source,
        score=score,
        error=None if parts is None else standard_error(parts),
        gap=None,
        beside=others,
        params=count_params(model),
        macs=count_macs(model, torch.zeros(1, 3, *size)),
        seconds=time.perf_counter() - start,
        features=look.features.shape[1],
        input=size,
    )
    return _Judged(row, parts, terms, len(look.targets))


def _score(scorer: Scorer, look: Look) -> float | None:
    return scorer.score(look) if scorer.fits(look) else None


def _joined(judged: list[_Judged], beside: Sequence[Scorer | JointScorer]) -> list[_Judged]:
    """The same with the scores that need all models, every scorer's column where it was asked for."""
    joint = {
        one.name: one.combine([each.terms[one.name] for each in judged])
        for one in beside
        if isinstance(one, JointScorer)
    }
    return [
        replace(each, row=replace(each.row, beside=_columns(each.row, beside, joint, place)))
        for place, each in enumerate(judged)
    ]


def _columns(
    row: Row, beside: Sequence[Scorer | JointScorer], joint: Mapping[str, list[float]], place: int
) -> dict[str, float | None]:
    return {one.name: joint[one.name][place] if one.name in joint else row.beside[one.name] for one in beside}


def _ranking(judged: list[_Judged], scorer: Scorer, seconds: float) -> Ranking:
    ordered = sorted(judged, key=lambda one: low_if_none(one.row.score), reverse=True)
    best = ordered[0]
    if best.row.score is None:
        raise ValueError(f"`scorer={scorer.name}` needs the models' own classifiers, and none has one.")
    tied = [one.row for one in ordered if _is_tied(best, one)]
    chosen = min(tied, key=lambda row: (row.macs, row.params))
    top = best.row.score
    rows = (_with_gap(one.row, top) for one in ordered)
    return Ranking(
        scorer=scorer.name,
        rows=tuple(rows),
        tied=tuple(row.model for row in tied) if len(tied) > 1 else (),
        chosen=chosen.model,
        reason=_reason(tied, chosen, scorer, len(ordered)),
        samples=best.samples,
        seconds=seconds,
    )


def _is_tied(best: _Judged, other: _Judged) -> bool:
    """Whether the difference is within the error of the difference, which shared samples make small."""
    if other is best:
        return True
    if best.row.score is None or other.row.score is None or best.pieces is None or other.pieces is None:
        return False
    return best.row.score - other.row.score <= TIE_ERRORS * standard_error(best.pieces - other.pieces)


def _reason(tied: list[Row], chosen: Row, scorer: Scorer, models: int) -> str:
    best = tied[0]
    figure = f"{best.score:.3f} ± {best.error:.3f}"
    if models == 1:
        return f"{best.model} is the only model ranked; its {scorer.name} is {figure}."
    if len(tied) == 1:
        return f"{best.model} has the highest {scorer.name} ({figure}), clear of the next."
    names = ", ".join(row.model for row in tied[:-1]) + f" and {tied[-1].model}"
    count = {2: "The two", 3: "The three", 4: "The four"}.get(len(tied), f"The {len(tied)}")
    return f"{count} best, {names}, are tied; {chosen.model} is cheapest ({human(chosen.macs)} MACs)."


def _with_gap(row: Row, top: float) -> Row:
    gap = None if row.score is None else top - row.score
    return replace(row, gap=gap)


def _sources(models: Mapping[str, nn.Module] | Sequence[str]) -> dict[str, tuple[str, nn.Module | None]]:
    """Source and module by name; those given by name are loaded only when their turn comes."""
    if isinstance(models, Mapping):
        return {name: ("module", model) for name, model in models.items()}
    return {
        name: (hub.describe(name).source, None) for name in ([models] if isinstance(models, str) else models)
    }


def _spec(model: nn.Module) -> InputSpec:
    try:
        return hub.input_spec(model)
    except ValueError as error:
        raise ValueError(f"{error} Or give a loader in place of the task.") from None


def _subsample(split: Split, samples: int | None, seed: int) -> Split:
    """At most ``samples`` images, every class in its share, in the split's own order."""
    if samples is not None and samples < 2:
        raise ValueError(f"`samples={samples}` must be at least 2, or None for all.")
    if samples is None or samples >= len(split):
        return split
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(split), generator=generator)
    # the position of each sample within its class, scaled to 0…1: taking the lowest takes equal shares
    place = torch.empty(len(split), dtype=torch.float64)
    for label in split.targets.unique():
        members = shuffled[split.targets[shuffled] == label]
        place[members] = torch.arange(len(members), dtype=torch.float64) / len(members)
    return split.subset(torch.argsort(place, stable=True)[:samples].sort().values)


def _remembered(file: Path, split: Split, look: Callable[[], Look]) -> Look:
    """The look kept in ``file`` if it is there and whole, else taken now and kept there."""
    try:
        tensors, _ = checkpoint.load_tensors(file)
        return Look(tensors["features"], split.targets, tensors.get("source_probs"))
    except (FileNotFoundError, FileRefusedError, KeyError):
        fresh = look()
    file.parent.mkdir(parents=True, exist_ok=True)
    probs = {} if fresh.source_probs is None else {"source_probs": fresh.source_probs}
    checkpoint.save_tensors(file, {"features": fresh.features, **probs})
    return fresh


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _looked_at_split(
    model: nn.Module,
    split: Split,
    spec: InputSpec,
    layer: str | None,
    device: torch.device | str | None = None,
) -> Look:
    loader = Loader(split, spec, batch_size=BATCH, shuffle=False)
    features = extract(model, loader, layer=layer, device=device)
    return Look(features, split.targets, _source_probs(model, features) if layer is None else None)


def _looked_at_loader(
    model: nn.Module, batches: Iterable[Any], layer: str | None, device: torch.device | str | None
) -> tuple[Look, tuple[int, int]]:
    targets: list[Tensor] = []
    sizes: list[tuple[int, int]] = []

    def inputs() -> Iterator[Tensor]:
        for batch in batches:
            images, labels = (batch.inputs, batch.targets) if hasattr(batch, "inputs") else batch[:2]
            targets.append(labels)
            sizes.append((images.shape[-2], images.shape[-1]))
            yield images

    features = extract(model, inputs(), layer=layer, device=device)
    probs = _source_probs(model, features) if layer is None else None
    return Look(features, torch.cat(targets), probs), sizes[0]


def _source_probs(model: nn.Module, features: Tensor) -> Tensor | None:
    """What the model's own classifier makes of the features; None if it has none that takes them."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.in_features != features.shape[1]:
        return None
    with torch.no_grad():
        return classifier(features.to(classifier.weight)).float().softmax(dim=1).cpu()
