"""SSF against a linear probe and full fine-tuning: 100 labelled solar cells, 3 seeds. About 10 minutes.

EfficientNet-Lite0 with its ImageNet weights, cells at 96 pixels, 15 epochs, 4 trials an arm chosen on 100
further cells; tested on all others. Expected: balanced accuracy at least 2 points above the linear probe and
at most 1 below full fine-tuning, at most 3 % of the backbone trained, and merging changes no answer.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.compare import Comparison, compare, grid
from experiments.tune.solar_cells import (
    MODEL,
    Cells,
    Draw,
    balanced_accuracy,
    draw,
    load_cells,
    logits,
    train,
)
from torchard import hub
from torchard.core.data import class_weights
from torchard.core.features import extract
from torchard.tune import ssf
from torchard.tune.linear_probe import STRENGTHS, fit_linear_probe
from torchard.tune.statistics import hold_statistics_

CLAIM = "SSF: at least the linear probe + 2 points, and full fine-tuning - 1, with at most 3 % trained."
SETTINGS = {
    "linear probe": grid(strengths=[STRENGTHS[i : i + 3] for i in range(0, len(STRENGTHS), 3)]),
    "SSF": grid(lr=[2e-2, 1e-2, 5e-3, 2e-3]),
    "full fine-tuning": grid(lr=[1e-3, 3e-4], hold=[False, True]),
}


def main() -> None:
    """Compare the three, print the table and write ``results/ssf.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--test", type=int, default=None, help="fewer test cells, for a trial of the script")
    parser.add_argument("--results", default="results/ssf.json")
    given = parser.parse_args()
    subject = load_cells(given.size), given
    found = compare(ARMS, subject, seeds=range(given.seeds), settings=SETTINGS)
    found.save(given.results, claim=CLAIM, verdict=verdict(found), digits=2)


def linear_probe(subject: tuple[Cells, Any], *, seed: int, strengths: tuple[float, ...]) -> dict[str, float]:
    """A classifier on features computed once."""
    cells, model = _drawn(subject, seed), hub.load(MODEL, num_classes=2)
    features = {
        part: extract(model, getattr(cells, part).images.split(64)) for part in ("train", "validation")
    }
    probe = fit_linear_probe(
        features["train"],
        cells.train.targets,
        features["validation"],
        cells.validation.targets,
        class_weights=class_weights(cells.train.targets, 2),
        strengths=strengths,
    )
    test = extract(model, cells.test.images.split(64))
    return {
        "validation": balanced_accuracy(probe.logits(features["validation"]), cells.validation.targets),
        "balanced accuracy": balanced_accuracy(probe.logits(test), cells.test.targets),
        "trained outside head": 0.0,
        "answers changed by merging": 0.0,
    }


def ssf_tuning(subject: tuple[Cells, Any], *, seed: int, lr: float) -> dict[str, float]:
    """Scales, shifts and the classifier; batch norms keep their statistics."""
    cells, model = _drawn(subject, seed), hub.load(MODEL, num_classes=2)
    ssf.attach(model, sample=cells.train.images[:1])
    groups = ssf.parameter_groups(model, lr=lr, weight_decay=0.05)
    _fit(subject, model, cells, groups, lr=lr, seed=seed, prepare=hold_statistics_)
    apart = logits(model, cells.test.images)
    validation = balanced_accuracy(logits(model, cells.validation.images), cells.validation.targets)
    merged = logits(ssf.merge(model), cells.test.images)
    return {
        "validation": validation,
        "balanced accuracy": balanced_accuracy(apart, cells.test.targets),
        "trained outside head": float(ssf.summary(model).adapter_params),
        "answers changed by merging": float((merged.argmax(1) != apart.argmax(1)).sum()),
    }


def full_fine_tuning(subject: tuple[Cells, Any], *, seed: int, lr: float, hold: bool) -> dict[str, float]:
    """Every parameter; batch norms move their statistics or keep them, whichever validation likes better."""
    cells, model = _drawn(subject, seed), hub.load(MODEL, num_classes=2)
    prepare = hold_statistics_ if hold else (lambda model: None)
    _fit(subject, model, cells, model.parameters(), lr=lr, seed=seed, prepare=prepare)
    return {
        "validation": balanced_accuracy(logits(model, cells.validation.images), cells.validation.targets),
        "balanced accuracy": balanced_accuracy(logits(model, cells.test.images), cells.test.targets),
        "trained outside head": float(_backbone_size()),
        "answers changed by merging": 0.0,
    }


ARMS = {"linear probe": linear_probe, "SSF": ssf_tuning, "full fine-tuning": full_fine_tuning}


def verdict(found: Comparison) -> str:
    """Say for each expectation whether it was met."""
    over_probe, _ = found.paired("SSF", "linear probe", "balanced accuracy")
    over_full, _ = found.paired("SSF", "full fine-tuning", "balanced accuracy")
    share = max(found.values("SSF", "trained outside head")) / _backbone_size()
    changed = sum(found.values("SSF", "answers changed by merging"))
    passed = over_probe >= 2 and over_full >= -1 and share <= 0.03 and changed == 0
    return (
        f"{'Passed' if passed else 'Not passed'}: SSF is {over_probe:+.2f} points from the linear probe and "
        f"{over_full:+.2f} from full fine-tuning, trains {share:.2%} of the backbone, and merging changed "
        f"{changed:.0f} answers."
    )


def _drawn(subject: tuple[Cells, Any], seed: int) -> Draw:
    cells, given = subject
    return draw(cells, seed, train=given.train, validation=100, test=given.test)


def _fit(
    subject: tuple[Cells, Any],
    model: nn.Module,
    cells: Draw,
    parameters: Any,
    *,
    lr: float,
    seed: int,
    prepare: Callable[[nn.Module], object],
) -> None:
    epochs = subject[1].epochs
    train(model, cells.train, parameters, lr=lr, epochs=epochs, batch_size=25, seed=seed, prepare=prepare)


def _backbone_size() -> int:
    with torch.device("meta"):
        model = hub.load(MODEL, num_classes=0, pretrained=False)
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    main()
