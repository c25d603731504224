"""Score two hubs of small networks on 150 digits, fine-tune each, and see how well scores foretold it."""

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import kendalltau, weightedtau

from experiments import record
from experiments.select.digits_hub import (
    HUBS,
    Digits,
    Hub,
    fine_tuned_accuracy,
    load_digits,
    look,
    pretrain,
    split,
)
from torchard.cli.console import Column, progress
from torchard.select.scorers import JointScorer, Look, scorers

Trials = Sequence[Mapping[str, Any]]
COLUMNS = [
    Column("hub"),
    Column("scorer"),
    Column("tau", head="weighted τ", digits=2, spread="tau sd"),
    Column("kendall", head="Kendall τ", digits=2, spread="kendall sd"),
    Column("above", head="pick above hub mean", unit="points", scale=100, digits=2, spread="above sd"),
    Column("regret", head="pick below best", unit="points", scale=100, digits=2, spread="regret sd"),
    Column("faster", head="times faster than tuning", digits=0),
]


LEAST_TAU = {"linear_probe": 0.5}  # 0.3 for all others
BESIDE = {"h_score": ("shrunk_h_score", "logme", "knn")}


def judge(name: str, *, about: str | None) -> None:
    """Measure one scorer with others beside it, print the table and write ``results/<name>.json``."""
    given = options(about, f"results/{name}.json").parse_args()
    write(name, run_trials([name, *beside(name)], given), given.results)


def beside(name: str) -> tuple[str, ...]:
    """Return the scorers that stand beside ``name`` in its table."""
    return BESIDE.get(name, tuple(other for other in ("logme", "knn") if other != name))


def write(name: str, trials: Mapping[str, Trials], results: str) -> None:
    """Print the table of one scorer and those beside it, and write it to ``results``."""
    names = (name, *beside(name))
    rows = [row(hub, one, part) for hub, part in trials.items() for one in names]
    least = LEAST_TAU.get(name, 0.3)
    claim = f"Weighted τ at least {least}, the pick within 2 points of the best, a score in under a second."
    text = " ".join(_verdict(hub, name, part, least) for hub, part in trials.items())
    kept = {hub: [_only(trial, names) for trial in part] for hub, part in trials.items()}
    record.save(results, rows, COLUMNS, claim=claim, verdict=text, details={"trials": kept})


def _verdict(hub: str, name: str, trials: Trials, least: float) -> str:
    own = row(hub, name, trials)
    slowest = max(trial["seconds"][name] / len(HUBS[hub].recipes) for trial in trials)
    parts = [
        (f"τ_w {own['tau']:.2f}", own["tau"] >= least),
        (f"pick {100 * own['regret']:.1f} points below the best", own["regret"] <= 0.02),
        (f"{slowest:.2f} s a model", slowest < 1),
    ]
    return f"{hub} ({to_rank(trials)}): {told(parts)}"


def options(about: str | None, results: str) -> argparse.ArgumentParser:
    """Return the options every experiment on scorers takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--hubs", nargs="+", choices=list(HUBS), default=list(HUBS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--source", type=int, default=None, help="fewer source digits, for a trial")
    parser.add_argument("--results", default=results)
    return parser


def run_trials(names: Sequence[str], given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return truth, scores and seconds of every seed and split, by hub."""
    source, target = load_digits("mnist"), load_digits("digits")
    source = source[torch.arange(given.source or len(source.labels))]
    return {
        hub: [
            trial
            for seed in range(given.seeds)
            for trial in seed_trials(names, HUBS[hub], seed, source, target, given.splits)
        ]
        for hub in given.hubs
    }


def seed_trials(
    names: Sequence[str], hub: Hub, seed: int, source: Digits, target: Digits, splits: int
) -> list[dict[str, Any]]:
    """Pre-train the hub once, then score and fine-tune it on each split."""
    models = {name: pretrain(recipe, source, seed) for name, recipe in hub.recipes.items()}
    trials = []
    for part in range(splits):
        train, test = split(target, 100 * seed + part)
        start = time.perf_counter()
        truth = {
            name: fine_tuned_accuracy(model, train, test, hub, seed=seed) for name, model in models.items()
        }
        tuning = time.perf_counter() - start
        looks, looking = zip(*(look(model, train) for model in models.values()), strict=True)
        scored = {name: timed_scores(name, models, looks) for name in names}
        trials.append(
            {
                "seed": seed,
                "split": part,
                "truth": truth,
                "tuning seconds": tuning,
                "scores": {name: values for name, (values, _) in scored.items()},
                "seconds": {name: sum(looking) + seconds for name, (_, seconds) in scored.items()},
            }
        )
        progress().print(
            f"seed {seed}, split {part}: best {max(truth.values()):.3f}, tuned in {tuning:.0f} s"
        )
    return trials


def timed_scores(name: str, models: Iterable[str], looks: Iterable[Look]) -> tuple[dict[str, float], float]:
    """One scorer over the hub, by model, and its seconds."""
    start = time.perf_counter()
    scorer, seen = scorers()[name], list(looks)
    if isinstance(scorer, JointScorer):
        values = scorer.combine([scorer.terms(one) for one in seen])
    else:
        values = [scorer.score(one) for one in seen]
    return dict(zip(models, values, strict=True)), time.perf_counter() - start


def to_rank(trials: Trials) -> str:
    """Say how far the models of a hub lie apart, against the error with which that is known."""
    spreads, errors = [], []
    for seed in dict.fromkeys(trial["seed"] for trial in trials):
        truth = mean_truth(trials, seed)
        own = [trial["truth"] for trial in trials if trial["seed"] == seed]
        # Of each split only what sets a model apart from the others counts.
        apart = [[one[model] - statistics.fmean(one.values()) for one in own] for model in truth]
        spreads.append(statistics.stdev(truth.values()))
        if len(own) > 1:
            errors.append(statistics.fmean(statistics.variance(values) / len(own) for values in apart))
    error = f" with an error of {100 * math.sqrt(statistics.fmean(errors)):.1f}" if errors else ""
    return f"models {100 * statistics.fmean(spreads):.1f} points apart{error}"


def mean_truth(trials: Trials, seed: int) -> dict[str, float]:
    """Return the accuracy of each model of a seed's hub, the mean over its splits."""
    found = [trial["truth"] for trial in trials if trial["seed"] == seed]
    return {model: statistics.fmean(truth[model] for truth in found) for model in found[0]}


def row(hub: str, name: str, trials: Trials) -> dict[str, Any]:
    """One scorer's line on one hub: means and spreads over all trials."""
    figures: dict[str, list[float]] = {key: [] for key in ("tau", "kendall", "above", "regret")}
    for trial in trials:
        # One split's accuracies err by as much as the models differ, so all splits' mean is the truth.
        truth, scores = mean_truth(trials, trial["seed"]), trial["scores"][name]
        pick = truth[max(scores, key=lambda model: scores[model])]
        values = [scores[model] for model in truth]
        figures["tau"].append(float(weightedtau(values, list(truth.values())).statistic))
        figures["kendall"].append(float(kendalltau(values, list(truth.values())).statistic))
        figures["above"].append(pick - statistics.fmean(truth.values()))
        figures["regret"].append(max(truth.values()) - pick)
    summary: dict[str, Any] = {"hub": hub, "scorer": name}
    for key, values in figures.items():
        summary |= {key: statistics.fmean(values), f"{key} sd": statistics.pstdev(values)}
    ratios = [trial["tuning seconds"] / trial["seconds"][name] for trial in trials]
    return summary | {"faster": statistics.median(ratios)}


def told(parts: Iterable[tuple[str, bool]]) -> str:
    """Return the verdict part by part."""
    return "; ".join(f"{text}: {'as expected' if met else 'not as expected'}" for text, met in parts) + "."


def _only(trial: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The trial without what other scorers made of it."""
    found = {key: {name: trial[key][name] for name in names} for key in ("scores", "seconds")}
    return {**trial, **found}
