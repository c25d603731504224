"""LogME and its rivals against fine-tuning: a hub of 11 networks, 3 seeds of 3 splits. About 15 minutes.

Networks pre-trained on MNIST in eleven ways are scored on 150 digits of another source, then fine-tuned on
them; then the packaged ImageNet models are ranked on solar cells against random copies of themselves; then
the seconds of one score are compared with a plain fixed-point implementation. Expected: weighted Kendall τ
at least 0.4 for LogME, its pick at least 1 point above the hub's mean and within 1 point of the best,
scoring 50 times as fast as tuning; every pre-trained model above every random one; twice as fast.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import kendalltau, weightedtau
from torch import Tensor

from experiments import record
from experiments.select.digits_hub import HUB, Digits, fine_tuned_accuracy, load_digits, look, pretrain, split
from torchard import hub
from torchard.cli.console import Column, progress
from torchard.core.data import load_task
from torchard.select.logme import logme
from torchard.select.rank import rank
from torchard.select.scorers import Look, scorers

CLAIM = (
    "LogME: τ_w ≥ 0.4, its pick ≥ hub mean + 1 point and within 1 point of the best, ≥ 50 times as fast as "
    "tuning; on elpv every pre-trained model above every random copy; twice as fast as a plain fixed point."
)
COLUMNS = [
    Column("scorer"),
    Column("tau", head="weighted τ", digits=2, spread="tau sd"),
    Column("kendall", head="Kendall τ", digits=2, spread="kendall sd"),
    Column("above", head="pick above hub mean", unit="points", scale=100, digits=2, spread="above sd"),
    Column("regret", head="pick below best", unit="points", scale=100, digits=2, spread="regret sd"),
    Column("faster", head="times faster than tuning", digits=0),
]


def main() -> None:
    """Measure all three, print the table and write ``results/logme.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument(
        "--source", type=int, default=None, help="fewer source digits, for a trial of the script"
    )
    parser.add_argument(
        "--cells", type=int, default=400, help="solar cells to rank on; 0 leaves this part out"
    )
    parser.add_argument(
        "--features", type=int, nargs=3, default=[5000, 1280, 100], help="for the speed: n d k"
    )
    parser.add_argument("--results", default="results/logme.json")
    given = parser.parse_args()
    source, target = load_digits("mnist"), load_digits("digits")
    source = source[torch.arange(given.source or len(source.labels))]
    trials = [
        trial for seed in range(given.seeds) for trial in seed_trials(seed, source, target, given.splits)
    ]
    rows = [row(name, trials) for name in trials[0]["scores"]]
    cells = rank_cells(given.cells) if given.cells else None
    speed = compare_speed(*given.features)
    details = {"trials": trials, "elpv": cells, "speed": speed}
    text = verdict(rows, cells, speed)
    record.save(given.results, rows, COLUMNS, claim=CLAIM, verdict=text, details=details)


def seed_trials(seed: int, source: Digits, target: Digits, splits: int) -> list[dict[str, Any]]:
    """Pre-train the hub once, then score and fine-tune it on each split."""
    models = {name: pretrain(recipe, source, seed) for name, recipe in HUB.items()}
    trials = []
    for part in range(splits):
        train, test = split(target, 100 * seed + part)
        start = time.perf_counter()
        truth = {name: fine_tuned_accuracy(model, train, test, seed=seed) for name, model in models.items()}
        tuning = time.perf_counter() - start
        looks, looking = zip(*(look(model, train) for model in models.values()), strict=True)
        scored = {name: timed_scores(name, models, looks) for name in scorers()}
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
    values = {model: scorers()[name].score(one) for model, one in zip(models, looks, strict=True)}
    return values, time.perf_counter() - start


def row(name: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One scorer's line: means and spreads over all trials."""
    figures: dict[str, list[float]] = {key: [] for key in ("tau", "kendall", "above", "regret")}
    for trial in trials:
        truth, scores = trial["truth"], trial["scores"][name]
        pick = truth[max(scores, key=lambda model: scores[model])]
        values = [scores[model] for model in truth]
        figures["tau"].append(float(weightedtau(values, list(truth.values())).statistic))
        figures["kendall"].append(float(kendalltau(values, list(truth.values())).statistic))
        figures["above"].append(pick - statistics.fmean(truth.values()))
        figures["regret"].append(max(truth.values()) - pick)
    summary: dict[str, Any] = {"scorer": name}
    for key, values in figures.items():
        summary |= {key: statistics.fmean(values), f"{key} sd": statistics.pstdev(values)}
    ratios = [trial["tuning seconds"] / trial["seconds"][name] for trial in trials]
    return summary | {"faster": statistics.median(ratios)}


def rank_cells(samples: int) -> dict[str, float]:
    """Scores of the packaged models on solar cells, and of random copies of them."""
    models = {}
    for known in hub.list_models(source="packaged"):
        torch.manual_seed(0)
        models[known.name] = hub.load(known.name)
        models[f"{known.name}, random"] = hub.load(known.name, pretrained=False)
    ranking = rank(models, load_task("elpv"), samples=samples, progress=progress().print)
    return {row.model: row.score for row in ranking.rows if row.score is not None}


def compare_speed(n: int, d: int, k: int) -> dict[str, float]:
    """Seconds of our score and of a plain fixed-point iteration, in turn, five times."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % k
    features = torch.randn(k, d, generator=generator)[targets] + 3 * torch.randn(n, d, generator=generator)
    ours, plain = [], []
    for _ in range(5):
        start = time.perf_counter()
        logme(features, targets)
        middle = time.perf_counter()
        plain_fixed_point(features, targets)
        ours.append(middle - start)
        plain.append(time.perf_counter() - middle)
    return {"ours": statistics.median(ours), "plain": statistics.median(plain)}


def plain_fixed_point(features: Tensor, targets: Tensor) -> float:
    """The paper's Algorithm 3 as one writes it down: one SVD, then a loop over classes and rounds."""
    rows = features.double()
    u, s, _ = torch.linalg.svd(rows, full_matrices=False)
    sigma, n, total = s.square(), len(rows), 0.0
    for label in targets.unique():
        y = (targets == label).double()
        z2 = (u.T @ y).square()
        rho, t = y.square().sum() - z2.sum(), torch.tensor(1.0, dtype=torch.float64)
        for _ in range(11):
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * z2 / (sigma + t).square()).sum()
            error = (t.square() * z2 / (sigma + t).square()).sum() + rho
            before, t = t, gamma / (n - gamma) * error / m2
            if abs(t - before) <= 1e-3 * before:
                break
        quality = rho + (t * z2 / (t + sigma)).sum()
        total += (0.5 * ((n / quality).log() - torch.log1p(sigma / t).sum() / n)).item()
    return total


def verdict(
    rows: Sequence[Mapping[str, Any]], cells: Mapping[str, float] | None, speed: Mapping[str, float]
) -> str:
    """Say part by part whether what was expected came."""
    own = next(row for row in rows if row["scorer"] == "logme")
    parts = [
        (f"τ_w {own['tau']:.2f}", own["tau"] >= 0.4),
        (f"pick {100 * own['above']:+.1f} points over the mean", own["above"] >= 0.01),
        (f"{100 * own['regret']:.1f} below the best", own["regret"] <= 0.01),
        (f"{own['faster']:.0f} times faster than tuning", own["faster"] >= 50),
        (
            f"{speed['plain'] / speed['ours']:.1f} times a plain fixed point",
            speed["plain"] >= 2 * speed["ours"],
        ),
    ]
    if cells is not None:
        lowest = min(score for name, score in cells.items() if not name.endswith("random"))
        highest = max(score for name, score in cells.items() if name.endswith("random"))
        parts.append((f"elpv: pre-trained ≥ {lowest:.3f}, random ≤ {highest:.3f}", lowest > highest))
    return "; ".join(f"{text}: {'as expected' if met else 'not as expected'}" for text, met in parts) + "."


if __name__ == "__main__":
    main()
