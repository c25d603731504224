"""SSF on a small transformer: the image tower that learnt MNIST, tuned on 5 or 20 digits a class, 5 seeds.

The cheap companion of ``experiments/tune/ssf.py``: scikit-learn's digits, 40 full-batch steps of AdamW, rates
as first tried (0.01 for the linear probe and SSF, 0.001 for full fine-tuning), all other digits to test on.
About 2 minutes. Expected: with 20 labels SSF at least 4 points above the probe on the mean and above it on
every seed, closing at least 60 % of the gap to full fine-tuning; with 5 labels at least the probe's mean.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import record
from experiments.tune.taskres import digit_images
from torchard.cli.console import Column
from torchard.nn.dual_encoder import tiny_clip
from torchard.tune import ssf

CLAIM = (
    "20 labels a class: SSF 4 points above the linear probe, closing 60 % of the gap; 5: at least the probe."
)
SHOTS = (5, 20)


def main() -> None:
    """Compare the three, print the table and write ``results/ssf_digits.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--results", default="results/ssf_digits.json")
    given = parser.parse_args()
    pixels, targets = digit_images()
    images = tiny_clip().preprocess(pixels)
    found = {
        (name, shots): [
            accuracy(prepare, images, targets, shots=shots, lr=lr, seed=seed, steps=given.steps)
            for seed in range(given.seeds)
        ]
        for name, (prepare, lr) in ARMS.items()
        for shots in SHOTS
    }
    rows = []
    for name in ARMS:
        row: dict[str, Any] = {"arm": name}
        for shots in SHOTS:
            row[str(shots)] = statistics.fmean(found[name, shots])
            row[f"{shots} sd"] = statistics.stdev(found[name, shots]) if given.seeds > 1 else None
        rows.append(row)
    columns = [Column("arm")]
    columns += [Column(str(s), f"{s} a class", "%", digits=1, spread=f"{s} sd") for s in SHOTS]
    details = {f"{name}, {shots} a class": values for (name, shots), values in found.items()}
    record.save(given.results, rows, columns, claim=CLAIM, verdict=verdict(found), details=details)


def frozen(model: nn.Sequential) -> list[Any]:
    """Train the classifier alone."""
    model[0].requires_grad_(False)
    return list(model[1].parameters())


def scaled_and_shifted(model: nn.Sequential) -> list[Any]:
    """Train scales, shifts and the classifier."""
    ssf.attach(model, also_train=["1"])
    return list(ssf.trainable_parameters(model).values())


def everything(model: nn.Sequential) -> list[Any]:
    """Train all."""
    return list(model.parameters())


ARMS: dict[str, tuple[Callable[[nn.Sequential], list[Any]], float]] = {
    "linear probe": (frozen, 1e-2),
    "SSF": (scaled_and_shifted, 1e-2),
    "full fine-tuning": (everything, 1e-3),
}


def accuracy(
    prepare: Callable[[nn.Sequential], list[Any]],
    images: Tensor,
    targets: Tensor,
    *,
    shots: int,
    lr: float,
    seed: int,
    steps: int,
) -> float:
    """Return the accuracy in percent on all digits that were not trained on."""
    torch.manual_seed(seed)
    order = torch.randperm(len(targets))
    rows = torch.cat([order[targets[order] == label][:shots] for label in range(10)])
    model = nn.Sequential(tiny_clip().visual, nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(prepare(model), lr=lr)
    model.train()
    for _ in range(steps):
        loss = F.cross_entropy(model(images[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = torch.cat([model.eval()(part).argmax(dim=1) for part in images.split(500)]) == targets
    right[rows] = False
    return 100 * right.sum().item() / (len(right) - len(rows))


def verdict(found: dict[tuple[str, int], list[float]]) -> str:
    """Say for each expectation whether it was met."""

    def gaps(shots: int, other: str) -> list[float]:
        return [a - b for a, b in zip(found["SSF", shots], found[other, shots], strict=True)]

    probe, full = gaps(20, "linear probe"), gaps(20, "full fine-tuning")
    lead = statistics.fmean(probe)
    closed = lead / (lead - statistics.fmean(full))
    few = gaps(5, "linear probe")
    spread = statistics.stdev(few) if len(few) > 1 else 0.0
    checks = {
        f"20 labels: {lead:+.1f} over the probe, at worst {min(probe):+.1f}": lead >= 4 and min(probe) > 0,
        f"{closed:.0%} of the gap to full fine-tuning": closed >= 0.6,
        f"5 labels: {statistics.fmean(few):+.1f} ± {spread:.1f}": statistics.fmean(few) >= 0,
    }
    return "; ".join(f"{text}: {'yes' if met else 'no'}" for text, met in checks.items()) + "."


if __name__ == "__main__":
    main()
