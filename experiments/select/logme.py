"""LogME and its rivals against fine-tuning: two hubs of networks, 6 seeds of 5 splits. About 22 minutes.

Networks pre-trained on MNIST in many ways are scored on 150 digits of another source, then fine-tuned
on them; then the packaged ImageNet models are ranked on solar cells against random copies of themselves; then
the seconds of one score are compared with a plain fixed-point implementation. Expected: weighted Kendall τ
at least 0.4 for LogME, its pick at least 1 point above the hub's mean and within 1 point of the best,
scoring 50 times as fast as tuning; every pre-trained model above every random one; twice as fast.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments import record
from experiments.select.scoring import COLUMNS, options, row, run_trials, to_rank, told
from torchard import hub
from torchard.cli.console import progress
from torchard.core.data import load_task
from torchard.select.logme import logme
from torchard.select.rank import rank
from torchard.select.scorers import scorers

CLAIM = (
    "LogME: τ_w ≥ 0.4, its pick ≥ hub mean + 1 point and within 1 point of the best, ≥ 50 times as fast as "
    "tuning; on elpv every pre-trained model above every random copy; twice as fast as a plain fixed point."
)


def main() -> None:
    """Measure all three, print the table and write ``results/logme.json``."""
    parser = options(__doc__, "results/logme.json")
    parser.add_argument("--cells", type=int, default=400, help="solar cells to rank on; 0 for none")
    parser.add_argument(
        "--features", type=int, nargs=3, default=[5000, 1280, 100], help="n d k for the speed"
    )
    given = parser.parse_args()
    trials = run_trials(list(scorers()), given)
    rows = [row(name, scorer, part) for name, part in trials.items() for scorer in scorers()]
    cells = rank_cells(given.cells) if given.cells else None
    speed = compare_speed(*given.features)
    details = {"trials": trials, "elpv": cells, "speed": speed}
    spreads = {name: to_rank(part) for name, part in trials.items()}
    text = verdict(rows, spreads, cells, speed)
    record.save(given.results, rows, COLUMNS, claim=CLAIM, verdict=text, details=details)


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
    rows: Sequence[Mapping[str, Any]],
    spreads: Mapping[str, str],
    cells: Mapping[str, float] | None,
    speed: Mapping[str, float],
) -> str:
    """Say hub by hub, then for solar cells and speed, whether what was expected came."""
    texts = [
        f"{own['hub']} ({spreads[own['hub']]}): {told(_foretold(own))}"
        for own in rows
        if own["scorer"] == "logme"
    ]
    ratio = speed["plain"] / speed["ours"]
    parts = [(f"{ratio:.1f} times as fast as a plain fixed point", ratio >= 2)]
    if cells is not None:
        lowest = min(score for name, score in cells.items() if not name.endswith("random"))
        highest = max(score for name, score in cells.items() if name.endswith("random"))
        parts.append((f"elpv: pre-trained ≥ {lowest:.3f}, random ≤ {highest:.3f}", lowest > highest))
    return " ".join([*texts, told(parts)])


def _foretold(own: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [
        (f"τ_w {own['tau']:.2f}", own["tau"] >= 0.4),
        (f"pick {100 * own['above']:+.1f} points over the mean", own["above"] >= 0.01),
        (f"{100 * own['regret']:.1f} below the best", own["regret"] <= 0.01),
        (f"{own['faster']:.0f} times faster than tuning", own["faster"] >= 50),
    ]


if __name__ == "__main__":
    main()
