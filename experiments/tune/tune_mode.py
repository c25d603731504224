"""Train, Eval, Tune and Deploy mode on 400 solar cells: accuracy, memory, step time, largest usable rate.

EfficientNet-Lite0 with its ImageNet weights, cells at 96 pixels, SGD 0.01 with momentum, 3 epochs, batch 16,
3 seeds, the same order of data in every mode. About 25 minutes. Expected: Tune and Eval mode take the same
steps (losses within 1e-3 over the first 20, 1e-9 in float64) and end within a point of each other on each
seed; Tune keeps at most 0.75 of Eval's bytes (ResNet-18: 0.56) and takes at most 1.05 of its time; Tune
trains at the rates at which Eval does, Deploy only at rates at least three times lower.
"""

import argparse
import copy
import statistics
import time
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments import record
from experiments.tune.solar_cells import MODEL, Cells, Draw, balanced_accuracy, draw, load_cells, logits
from torchard import hub
from torchard.cli.console import Column, progress
from torchard.core.budget import activation_bytes
from torchard.core.data import class_weights
from torchard.tune.pairs import find_pairs
from torchard.tune.statistics import hold_statistics_
from torchard.tune.tune_mode import Mode, set_mode

MODES: tuple[Mode, ...] = ("train", "eval", "tune", "deploy")
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CLAIM = "Tune mode: Eval mode's results at no more than 0.75 of its kept bytes and 1.05 of its time."
COLUMNS = (
    Column("mode"),
    Column("accuracy", head="balanced accuracy", unit="%", digits=1, spread="accuracy sd"),
    Column("kept", head="kept for backward", unit="MB", scale=1e-6, digits=1),
    Column("resnet18", head="ResNet-18, batch 4", unit="MB", scale=1e-6, digits=1),
    Column("step", head="step", unit="ms", scale=1e3, digits=0),
    Column("rate", head="largest rate", digits=3),
    Column("stretched rate", head="the same, layers stretched", digits=3),
)


def main() -> None:
    """Measure the four modes, print the table and write ``results/tune_mode.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--cells", type=int, default=400, help="to train on, and to test on")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--results", default="results/tune_mode.json")
    given = parser.parse_args()
    cells = load_cells(given.size)
    draws = [
        draw(cells, seed, train=given.cells, validation=0, test=given.cells) for seed in range(given.seeds)
    ]
    accuracies = {
        mode: [_accuracy(mode, d, given.epochs, seed) for seed, d in enumerate(draws)] for mode in MODES
    }
    example = draws[0].train.images[:16]
    kept = {mode: _kept(_model(mode), example) for mode in MODES}
    resnet = {
        mode: _kept(_switched(timm.create_model("resnet18"), mode), torch.randn(4, 3, 224, 224))
        for mode in MODES
    }
    steps = step_seconds(draws[0].train, rounds=given.rounds)
    rates = {
        stretch: {mode: largest_rate(mode, draws[0].train, stretch) for mode in MODES}
        for stretch in (1.0, 10.0)
    }
    differences = {
        str(dtype): loss_difference(draws[0].train, dtype) for dtype in (torch.float32, torch.float64)
    }
    rows = [
        {
            "mode": mode,
            "accuracy": statistics.fmean(accuracies[mode]),
            "accuracy sd": statistics.stdev(accuracies[mode]) if given.seeds > 1 else None,
            "kept": kept[mode],
            "resnet18": resnet[mode],
            "step": statistics.median(steps[mode]),
            "rate": rates[1.0][mode],
            "stretched rate": rates[10.0][mode],
        }
        for mode in MODES
    ]
    details = {"accuracies": accuracies, "loss differences": differences, "step seconds": steps}
    verdict = judge({row["mode"]: row for row in rows}, details)
    record.save(given.results, rows, COLUMNS, claim=CLAIM, verdict=verdict, details=details)


def step_seconds(cells: Cells, *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of training steps, one of each mode in turn, the first round not counted."""
    models = {mode: _model(mode) for mode in MODES}
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds + 1):
        for mode, model in models.items():
            start = time.perf_counter()
            sgd(model, mode, cells, lr=1e-4, steps=1)
            times[mode].append(time.perf_counter() - start)
    return {mode: found[1:] for mode, found in times.items()}


def largest_rate(mode: Mode, cells: Cells, stretch: float) -> float | None:
    """Return the largest of ``RATES`` up to which the loss is finite and falls over 30 steps."""
    usable = None
    for lr in RATES:
        losses = sgd(_model(mode, stretch), mode, cells, lr=lr, steps=30)
        first, last = statistics.fmean(losses[:8]), statistics.fmean(losses[-8:])
        progress().print(f"{mode}  stretch {stretch:g}  rate {lr:g}  loss {first:.3f} to {last:.3f}")
        if not last < first:  # true for NaN too
            break
        usable = lr
    return usable


def loss_difference(cells: Cells, dtype: torch.dtype) -> float:
    """Return the largest relative difference between the losses of Eval and Tune mode over 20 steps."""
    wide = Cells(cells.images.to(dtype), cells.targets)
    found = [sgd(_model(mode).to(dtype), mode, wide, lr=1e-2, steps=20) for mode in ("eval", "tune")]
    return max(abs(a - b) / abs(a) for a, b in zip(*found, strict=True))


def stretched_(model: nn.Module, factor: float) -> None:
    """Multiply every second pair's weight by ``factor`` and undo it in the norm: the function stays."""
    for pair in find_pairs(model).pairs[::2]:
        conv: Any = model.get_submodule(pair.conv)
        bn: Any = model.get_submodule(pair.bn)
        conv.weight.data *= factor
        bn.running_mean *= factor
        bn.running_var.copy_(factor**2 * (bn.running_var + bn.eps) - bn.eps)


def sgd(
    model: nn.Module, mode: Mode, cells: Cells, *, lr: float, steps: int, batch_size: int = 16, seed: int = 0
) -> list[float]:
    """Take steps of SGD with momentum 0.9 and return their losses; all modes see the data in one order."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    weights = class_weights(cells.targets, 2).to(cells.images.dtype)
    model.train()
    if mode != "train":
        hold_statistics_(model)
    order = torch.cat([torch.randperm(len(cells.targets), generator=generator) for _ in range(steps)])
    losses = []
    for indices in order.split(batch_size)[:steps]:
        loss = cross_entropy(model(cells.images[indices]), cells.targets[indices], weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def judge(rows: dict[str, dict[str, Any]], details: dict[str, Any]) -> str:
    """Say for each expectation whether it was met."""
    tune, plain, deploy = rows["tune"], rows["eval"], rows["deploy"]
    apart = max(
        abs(a - b) for a, b in zip(details["accuracies"]["tune"], details["accuracies"]["eval"], strict=True)
    )
    single, double = details["loss differences"].values()
    slower = statistics.median(
        a / b for a, b in zip(details["step seconds"]["tune"], details["step seconds"]["eval"], strict=True)
    )
    checks = {
        f"losses differ by {single:.0e} and {double:.0e} in float64": single <= 1e-3 and double <= 1e-9,
        f"accuracies by at most {apart:.1f} points": apart <= 1,
        f"kept {tune['kept'] / plain['kept']:.2f} of Eval's bytes": tune["kept"] <= 0.75 * plain["kept"],
        f"ResNet-18 {tune['resnet18'] / plain['resnet18']:.3f}": tune["resnet18"] <= 0.56 * plain["resnet18"],
        f"step {slower:.2f} of Eval's time": slower <= 1.05,
        f"rates tune {tune['rate']}, eval {plain['rate']}, deploy {deploy['rate']}": _lower(
            tune, plain, deploy, "rate"
        ),
        "stretched: " + ", ".join(f"{mode} {rows[mode]['stretched rate']}" for mode in MODES[1:]): _lower(
            tune, plain, deploy, "stretched rate"
        ),
    }
    return "; ".join(f"{text}: {'yes' if met else 'no'}" for text, met in checks.items()) + "."


def _lower(tune: dict[str, Any], plain: dict[str, Any], deploy: dict[str, Any], key: str) -> bool:
    return tune[key] == plain[key] and plain[key] is not None and (deploy[key] or 0.0) <= plain[key] / 3


def _accuracy(mode: Mode, cells: Draw, epochs: int, seed: int) -> float:
    model = _model(mode)
    steps = epochs * -(-len(cells.train.targets) // 16)
    sgd(model, mode, cells.train, lr=1e-2, steps=steps, seed=seed)
    found = balanced_accuracy(logits(model, cells.test.images), cells.test.targets)
    progress().print(f"{mode}  seed {seed}  balanced accuracy {found:.1f} %")
    return found


def _kept(model: nn.Module, example: torch.Tensor) -> int:
    return activation_bytes(model, example)


def _model(mode: Mode, stretch: float = 1.0) -> nn.Module:
    """The same weights each time, the classifier's too."""
    torch.manual_seed(0)
    model = hub.load(MODEL, num_classes=2)
    if stretch != 1.0:
        stretched_(model, stretch)
    return _switched(model, mode)


def _switched(model: nn.Module, mode: Mode) -> nn.Module:
    model = copy.deepcopy(model.eval())
    set_mode(model, mode)
    return model


if __name__ == "__main__":
    main()
