"""Train, Eval, Tune and Deploy mode on 400 solar cells: accuracy, memory, step time, largest usable rate.

EfficientNet-Lite0 with its ImageNet weights, cells at 96 pixels, SGD with momentum, 3 epochs, batch 16, 3
seeds, the same order of data in every mode. Six parts; ``--only time`` and the like measures some anew and
keeps what the file holds of the others. On one core about 10 minutes for accuracy, 5 for rates, 5 for
compiled, 2 for losses, 1 for memory and time together; time and compiled on an idle machine.

The rate of each mode is chosen among four on 100 further cells, for Tune mode on Eval's, being the same
function: at the one rate of the design, 0.01, everything with frozen statistics ended at chance. Expected:
Tune and Eval mode take the same steps (losses within 1e-3 over the first 20, 1e-9 in float64) and end within
a point of each other on each seed; Tune keeps at most 0.75 of Eval's bytes (ResNet-18: 0.56, compiled 0.60)
and takes at most 1.05 of its time; Tune trains at the rates at which Eval does, Deploy only at rates at least
three times lower, at the latest where pairs are stretched.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments import record
from experiments.compare import compare, grid
from experiments.tune.solar_cells import MODEL, Cells, balanced_accuracy, draw, load_cells, logits
from torchard import hub
from torchard.cli.console import Column, progress
from torchard.core.budget import activation_bytes
from torchard.core.data import class_weights
from torchard.core.files import read_json
from torchard.tune.pairs import find_pairs
from torchard.tune.statistics import hold_statistics_
from torchard.tune.tune_mode import Mode, set_mode

MODES: tuple[Mode, ...] = ("train", "eval", "tune", "deploy")
CHOICES = (3e-4, 1e-3, 3e-3, 1e-2)
DESIGN = 1e-2  # the rate the design asks for
RATES = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
STRETCHES = (1.0, 10.0)
NETWORKS = {"EfficientNet-Lite0": MODEL, "ResNet-18": "resnet18"}
SHAPES = {"4 x 224²": (4, 3, 224, 224), "8 x 64²": (8, 3, 64, 64)}
BACKEND = "inductor"
CLAIM = "Tune mode: Eval mode's results at no more than 0.75 of its kept bytes and 1.05 of its time."
COLUMNS = (
    Column("mode"),
    Column("accuracy", head="balanced accuracy", unit="%", digits=1, spread="accuracy sd"),
    Column("chosen", head="chosen rates"),
    *(
        Column(f"{name}, {shape}", head=f"kept: {name}, {shape}", unit="MB", scale=1e-6, digits=1)
        for name in NETWORKS
        for shape in SHAPES
    ),
    Column("step", head="step", unit="ms", scale=1e3, digits=0),
    Column("compiled kept", head="kept, compiled: ResNet-18, 8 x 64²", unit="MB", scale=1e-6, digits=1),
    Column("compiled step", head="its step, compiled", unit="ms", scale=1e3, digits=0),
    Column("rate", head="largest rate", digits=4),
    Column("stretched rate", head="the same, pairs stretched", digits=4),
)


def main() -> None:
    """Measure the parts asked for, print the table and write ``results/tune_mode.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--cells", type=int, default=400, help="to train on, and to test on")
    parser.add_argument("--steps", type=int, default=30, help="for a rate to show whether the loss falls")
    parser.add_argument("--rounds", type=int, default=20, help="of steps to time")
    parser.add_argument("--results", default="results/tune_mode.json")
    given = parser.parse_args()
    parts = _earlier(given.results)
    cells = load_cells(given.size)
    for name in given.only:
        parts[name] = PARTS[name](cells, given) | {"measured": record.provenance()}
    rows = [row(mode, parts) for mode in MODES]
    record.save(given.results, rows, COLUMNS, claim=CLAIM, verdict=judge(parts), details=parts)


def accuracy(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return test accuracies and chosen rates, seed by seed; Tune mode takes Eval's rates."""
    subject, seeds = (cells, given), range(given.seeds)
    arms: dict[str, Any] = {mode: partial(tuned, mode=mode) for mode in MODES if mode != "tune"}
    found = compare(arms, subject, seeds=seeds, settings={mode: grid(lr=CHOICES) for mode in arms})
    rates: dict[str, list[Any]] = {
        mode: [run.setting["lr"] for run in found.runs if run.arm == mode] for mode in arms
    }
    accuracies = {mode: found.values(mode, "accuracy") for mode in arms}
    rates["tune"] = rates["eval"]
    accuracies["tune"] = [
        tuned(subject, seed=seed, lr=lr, mode="tune")["accuracy"] for seed, lr in zip(seeds, rates["tune"])
    ]
    return {"accuracies": accuracies, "rates": rates, "trials": len(CHOICES)}


def losses(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return how far the losses of Eval and Tune mode lie apart over 20 steps, relative, at most."""
    part = _train_cells(cells, given)
    return {
        "float32": loss_difference(part, torch.float32, lr=DESIGN),
        "float64": loss_difference(part, torch.float64, lr=DESIGN),
        "float32 at a tenth of the rate": loss_difference(part, torch.float32, lr=DESIGN / 10),
    }


def memory(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return the bytes kept for the backward pass, by mode, network and shape."""
    networks = {name: timm.create_model(model, pretrained=False) for name, model in NETWORKS.items()}
    return {
        mode: {
            f"{name}, {shape}": activation_bytes(_switched(model, mode), torch.randn(size))
            for name, model in networks.items()
            for shape, size in SHAPES.items()
        }
        for mode in MODES
    }


def rates(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return the largest usable rate by stretch and mode."""
    return {
        f"{stretch:g}": {mode: largest_rate(mode, cells, given, stretch) for mode in MODES}
        for stretch in STRETCHES
    }


def step_seconds(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of training steps, one of each mode in turn, the first round not counted."""
    part, models = _train_cells(cells, given), {mode: _model(mode) for mode in MODES}
    times: dict[str, Any] = {mode: [] for mode in MODES}
    for _ in range(given.rounds + 1):
        for mode, model in models.items():
            start = time.perf_counter()
            sgd(model, mode, part, lr=1e-4, steps=1)
            times[mode].append(time.perf_counter() - start)
    return {mode: found[1:] for mode, found in times.items()}


def compiled(cells: Cells, given: argparse.Namespace) -> dict[str, Any]:
    """Return what a compiled ResNet-18 keeps, and the seconds of its passes, one of each mode in turn."""
    torch._dynamo.config.recompile_limit = 64  # four models of one class are counted as one that changes
    # Channels last, as the compiler wants weights: else it makes a copy of each and keeps it, in every mode.
    example = torch.randn(SHAPES["8 x 64²"]).contiguous(memory_format=torch.channels_last)
    plain = timm.create_model("resnet18").to(memory_format=torch.channels_last)
    models: dict[str, Any] = {mode: torch.compile(_switched(plain, mode), backend=BACKEND) for mode in MODES}
    kept = {mode: activation_bytes(model, example) for mode, model in models.items()}
    times: dict[str, Any] = {mode: [] for mode in MODES}
    for _ in range(given.rounds + 1):
        for mode, model in models.items():
            start = time.perf_counter()
            model(example).square().mean().backward()
            times[mode].append(time.perf_counter() - start)
    return {"kept": kept, "seconds": {mode: found[1:] for mode, found in times.items()}}


PARTS: dict[str, Callable[[Cells, argparse.Namespace], dict[str, Any]]] = {
    "accuracy": accuracy,
    "losses": losses,
    "memory": memory,
    "rates": rates,
    "time": step_seconds,
    "compiled": compiled,
}


def tuned(subject: tuple[Cells, argparse.Namespace], *, seed: int, lr: float, mode: Mode) -> dict[str, float]:
    """Fine-tune in one mode at one rate; NaN where training blew up."""
    cells, given = subject
    part = draw(cells, seed, train=given.cells, validation=100, test=given.cells)
    model = _model(mode)
    steps = given.epochs * math.ceil(len(part.train.targets) / 16)
    sgd(model, mode, part.train, lr=lr, steps=steps, seed=seed)
    return {
        "validation": balanced_accuracy(logits(model, part.validation.images), part.validation.targets),
        "accuracy": balanced_accuracy(logits(model, part.test.images), part.test.targets),
    }


def largest_rate(mode: Mode, cells: Cells, given: argparse.Namespace, stretch: float) -> float | None:
    """Return the largest of ``RATES`` at which the loss falls for every seed."""
    for lr in RATES:
        if all(
            falls(mode, _train_cells(cells, given, seed), lr, given, stretch) for seed in range(given.seeds)
        ):
            return lr
    return None


def falls(mode: Mode, cells: Cells, lr: float, given: argparse.Namespace, stretch: float) -> bool:
    """Whether the last ten losses are finite and, on average, a twentieth below that of a constant answer.

    The first losses are no measure: where training blows up they are large, and so any later loss smaller.
    """
    found = sgd(_model(mode, stretch), mode, cells, lr=lr, steps=given.steps)
    last = statistics.fmean(found[-10:])
    progress().print(f"{mode}  stretch {stretch:g}  rate {lr:g}  loss {found[0]:.3f} to {last:.3f}")
    return last < 0.95 * math.log(2)  # false for NaN too


def loss_difference(cells: Cells, dtype: torch.dtype, *, lr: float) -> float:
    """Return the largest relative difference between the losses of Eval and Tune mode over 20 steps."""
    wide = Cells(cells.images.to(dtype), cells.targets)
    found = [sgd(_model(mode).to(dtype), mode, wide, lr=lr, steps=20) for mode in ("eval", "tune")]
    return max(abs(a - b) / abs(a) for a, b in zip(*found, strict=True))


def stretched_(model: nn.Module, factor: float) -> None:
    """Multiply every pair's weight by ``factor`` and undo it in the norm: the function stays.

    Eval's relative steps shrink by ``factor²``; those of the folded weights, which are the same, do not.
    """
    for pair in find_pairs(model).pairs:
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


def row(mode: Mode, parts: dict[str, Any]) -> dict[str, Any]:
    """Return a mode's line of the table from the parts there are."""
    found: dict[str, Any] = {"mode": mode}
    if "accuracy" in parts:
        values = parts["accuracy"]["accuracies"][mode]
        spread = statistics.stdev(values) if len(values) > 1 else None
        chosen = ", ".join(f"{lr:g}" for lr in parts["accuracy"]["rates"][mode])
        found |= {"accuracy": statistics.fmean(values), "accuracy sd": spread, "chosen": chosen}
    if "memory" in parts:
        found |= parts["memory"][mode]
    if "rates" in parts:
        plain, stretched = (parts["rates"][f"{stretch:g}"][mode] for stretch in STRETCHES)
        found |= {"rate": plain, "stretched rate": stretched}
    if "time" in parts:
        found["step"] = statistics.median(parts["time"][mode])
    if "compiled" in parts:
        found["compiled kept"] = parts["compiled"]["kept"][mode]
        found["compiled step"] = statistics.median(parts["compiled"]["seconds"][mode])
    return found


def judge(parts: dict[str, Any]) -> str:
    """Say for each expectation that was measured whether it was met."""
    checks = {text: met for name in PARTS if name in parts for text, met in JUDGES[name](parts[name]).items()}
    return "; ".join(f"{text}: {'yes' if met else 'no'}" for text, met in checks.items()) + "."


def _judged_accuracy(part: dict[str, Any]) -> dict[str, bool]:
    pairs = zip(part["accuracies"]["tune"], part["accuracies"]["eval"], strict=True)
    apart = max(abs(a - b) for a, b in pairs)
    return {f"accuracies of Tune and Eval differ by at most {apart:.1f} points": apart <= 1}


def _judged_losses(part: dict[str, Any]) -> dict[str, bool]:
    single, double, slow = part["float32"], part["float64"], part["float32 at a tenth of the rate"]
    return {
        f"losses at rate {DESIGN:g} by {single:.0e}": single <= 1e-3,
        f"in float64 by {double:.0e}": double <= 1e-9,
        f"at rate {DESIGN / 10:g} by {slow:.0e}": slow <= 1e-3,
    }


def _judged_memory(part: dict[str, Any]) -> dict[str, bool]:
    checks = {}
    for kind, plain in part["eval"].items():
        ratio, limit = part["tune"][kind] / plain, 0.56 if kind.startswith("ResNet-18") else 0.75
        checks[f"{kind} keeps {ratio:.3f} of Eval's bytes"] = ratio <= limit
    return checks


def _judged_rates(part: dict[str, Any]) -> dict[str, bool]:
    checks = {}
    for stretch in STRETCHES:
        found = part[f"{stretch:g}"]
        lower = found["eval"] is not None and (found["deploy"] or 0.0) <= found["eval"] / 3
        shown = ", ".join(f"{mode} {found[mode] or 'none'}" for mode in MODES)
        checks[f"rates at stretch {stretch:g}: {shown}"] = lower and found["tune"] == found["eval"]
    return checks


def _judged_time(part: dict[str, Any]) -> dict[str, bool]:
    slower = statistics.median(a / b for a, b in zip(part["tune"], part["eval"], strict=True))
    return {f"step {slower:.2f} of Eval's time": slower <= 1.05}


def _judged_compiled(part: dict[str, Any]) -> dict[str, bool]:
    ratio = part["kept"]["tune"] / part["kept"]["eval"]
    return {f"compiled ResNet-18 keeps {ratio:.3f} of Eval's bytes": ratio <= 0.60}


JUDGES: dict[str, Callable[[dict[str, Any]], dict[str, bool]]] = {
    "accuracy": _judged_accuracy,
    "losses": _judged_losses,
    "memory": _judged_memory,
    "rates": _judged_rates,
    "time": _judged_time,
    "compiled": _judged_compiled,
}


def _earlier(results: str) -> dict[str, Any]:
    """The parts that an earlier run wrote, or none."""
    file = record.ROOT / results
    details = read_json(file)["details"] if file.exists() else {}
    return {name: part for name, part in details.items() if name in PARTS}


def _train_cells(cells: Cells, given: argparse.Namespace, seed: int = 0) -> Cells:
    return draw(cells, seed, train=given.cells, validation=100, test=given.cells).train


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
