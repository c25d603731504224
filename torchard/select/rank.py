"""Rank pre-trained models for a task from one forward pass each."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from torchard.select.scorers import KNN, LOGME, JointScorer, Look, Scorer, pieces, standard_error

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
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Ranking:
    """Return the models ordered by ``scorer`` on what they make of the data, with costs and error bars.

    Each model runs once, in eval mode, over the same ``samples`` training images (drawn evenly by class;
    None takes all), at its own input size and normalisation; its features are what its classifier sees, or
    the output of ``layer``. Names are loaded from the hub one after another. ``data`` may also be a loader
    of batches, which are then given to every model as they are. The validation and test images of a task
    are not looked at.

    Errors are standard errors over the samples. Models whose difference from the best is within two
    standard errors of that difference, on the same samples, are tied, and the cheapest is chosen. Features
    are kept in ``cache`` under a hash of weights, images and input, so that a second call costs seconds.

    Raises:
        ValueError: if there are no models or no data, or a model does not say what input it wants.
        UsageError: if a name is unknown, or ``cache`` is given with a loader, whose content has no name.
    """
    if not models:
        raise ValueError("`models` is empty: there is nothing to rank.")
    if cache is not None and not isinstance(data, Task):
        raise UsageError("`cache` needs a task: the batches of a loader have no name to keep features under.")
    start = time.perf_counter()
    scene = _scene(data, samples, seed, layer, cache)
    judged = []
    for name, source, model in _each(models):
        progress(name)
        judged.append(_judged(name, source, model, scene, scorer, beside))
    return _ranking(_joined(judged, beside), scorer, time.perf_counter() - start)


# How one model is looked at: what it shows of the samples, and the size of image it was given.
_Scene = Callable[[str, nn.Module], tuple[Look, tuple[int, int]]]


@dataclass(frozen=True, eq=False)
class _Judged:
    """A row before its gap is known, with what says how sure its score is and what waits for others."""

    row: Row
    pieces: Tensor | None
    terms: Mapping[str, tuple[float, float]]
    samples: int


def _scene(
    data: Task | Iterable[Any], samples: int | None, seed: int, layer: str | None, cache: Path | None
) -> _Scene:
    if not isinstance(data, Task):
        return lambda name, model: _looked_at_loader(model, data, layer)
    split, fingerprint = _subsample(data.train, samples, seed), data.fingerprint

    def look(name: str, model: nn.Module) -> tuple[Look, tuple[int, int]]:
        spec = _spec(name, model)
        if cache is None:
            return _looked_at_split(model, split, spec, layer), spec.size
        facts = {"format": 1, "data": fingerprint, "input": spec.to_json(), "layer": layer}
        key = content_key({**facts, "samples": list(split.names), "weights": _digest(model)})
        file = cache / f"{key}.safetensors"
        return _remembered(file, split, lambda: _looked_at_split(model, split, spec, layer)), spec.size

    return look


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
    try:
        score = _score(scorer, look)
        parts = pieces(scorer, look) if scorer.fits(look) else None
        others = {one.name: _score(one, look) for one in beside if isinstance(one, Scorer)}
        terms = {one.name: one.terms(look) for one in beside if isinstance(one, JointScorer)}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
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
        return f"{best.model} is the only model; its {scorer.name} is {figure}."
    if len(tied) == 1:
        return f"{best.model} has the highest {scorer.name} ({figure}), clear of the next."
    names = ", ".join(row.model for row in tied[:-1]) + f" and {tied[-1].model}"
    count = {2: "The two", 3: "The three", 4: "The four"}.get(len(tied), f"The {len(tied)}")
    return f"{count} best, {names}, are tied; {chosen.model} is cheapest ({human(chosen.macs)} MACs)."


def _with_gap(row: Row, top: float) -> Row:
    gap = None if row.score is None else top - row.score
    return replace(row, gap=gap)


def _each(models: Mapping[str, nn.Module] | Sequence[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, source and module of each model; those given by name are loaded only when their turn comes."""
    if isinstance(models, Mapping):
        yield from ((name, "module", model) for name, model in models.items())
        return
    for name in [models] if isinstance(models, str) else models:
        yield name, hub.describe(name).source, hub.load(name)


def _spec(name: str, model: nn.Module) -> InputSpec:
    try:
        return hub.input_spec(model)
    except ValueError as error:
        raise ValueError(f"{name}: {error} Or give a loader in place of the task.") from None


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


def _looked_at_split(model: nn.Module, split: Split, spec: InputSpec, layer: str | None) -> Look:
    features = extract(model, Loader(split, spec, batch_size=BATCH, shuffle=False), layer=layer)
    return Look(features, split.targets, _source_probs(model, features) if layer is None else None)


def _looked_at_loader(
    model: nn.Module, batches: Iterable[Any], layer: str | None
) -> tuple[Look, tuple[int, int]]:
    targets: list[Tensor] = []
    sizes: list[tuple[int, int]] = []

    def inputs() -> Iterator[Tensor]:
        for batch in batches:
            images, labels = (batch.inputs, batch.targets) if hasattr(batch, "inputs") else batch[:2]
            targets.append(labels)
            sizes.append((images.shape[-2], images.shape[-1]))
            yield images

    features = extract(model, inputs(), layer=layer)
    probs = _source_probs(model, features) if layer is None else None
    return Look(features, torch.cat(targets), probs), sizes[0]


def _source_probs(model: nn.Module, features: Tensor) -> Tensor | None:
    """What the model's own classifier makes of the features; None if it has none that takes them."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.in_features != features.shape[1]:
        return None
    with torch.no_grad():
        return classifier(features.to(classifier.weight)).float().softmax(dim=1).cpu()
