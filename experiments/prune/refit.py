"""What a cut leaves of a network, by criterion, with and without refitting: solar cells, 3 seeds.

EfficientNet-Lite0 with its ImageNet weights is tuned on elpv and cut to half its operations by Taylor or by
Fisher importance, both for each operation and from the same 256 training images, drawn and turned at random
as in training. Each cut network is scored as it is, and after ``reconstruct_`` on those images. Nothing is
trained after the cut and there is nothing to choose. About 12 minutes on two idle cores.

Expected: Fisher importance and refitting each help; together they end within 2 points of the whole network.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import record
from experiments.prune.backbone import Cells, logits, loss_of, parsed, tuned
from torchard.cli.console import Column
from torchard.core.budget import count_macs
from torchard.core.data import Task, metrics
from torchard.core.memory import keep_freed_memory
from torchard.prune import depgraph
from torchard.prune.depgraph.importance import Criterion, taylor

Few = Sequence[tuple[Tensor, Tensor]]  # images and targets

IMAGES = 256
FEW = 8  # images whose gradients are summed
CLAIM = "Half the operations within 2 points of the whole network, without training after the cut."
COLUMNS = [
    Column("criterion"),
    Column("refit"),
    Column("macro_f1", "test macro-F1", "%", scale=100, digits=1, spread="macro_f1_sd"),
    Column("nll", "test likelihood loss", digits=3, spread="nll_sd"),
    Column("macs", "MACs", "M", scale=1e-6, digits=0),
]


def main() -> None:
    """Cut in all four ways, print the table and write ``results/depgraph_refit.json``."""
    options = parsed(__doc__, "results/depgraph_refit.json", epochs=5)
    keep_freed_memory()
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        found = _arms(Cells.load(seed, options), options.epochs)
        print(*found, sep="\n", flush=True)
        runs += found
    arms = list(dict.fromkeys((run["criterion"], run["refit"]) for run in runs))
    rows = [_summary(arm, [run for run in runs if (run["criterion"], run["refit"]) == arm]) for arm in arms]
    loss = rows[0]["macro_f1"] - rows[-1]["macro_f1"]
    verdict = f"{'Held' if loss <= 0.02 else 'Not held'}: {100 * loss:.1f} points below."
    record.save(options.results, rows, COLUMNS, claim=CLAIM, verdict=verdict, details={"runs": runs})


def _arms(cells: Cells, epochs: int) -> list[dict[str, Any]]:
    model, _ = tuned(cells, epochs, 1e-3)
    model.eval()
    rows = [_row("none: whole network", "", model, cells)]
    images, targets = _drawn(cells)
    few = list(zip(images.split(FEW), targets.split(FEW)))
    for (name, importance), refit in itertools.product(CRITERIA.items(), (False, True)):
        graph = depgraph.trace(model, cells.train[:1])
        chosen = depgraph.plan(
            graph,
            target=depgraph.Target(macs=0.5),
            criterion=importance(graph, few, cells.task),
            scope="global",
            per="macs",
            normalize=None,
            round_to=8,
            max_ratio=0.8,
        )
        model.zero_grad(set_to_none=True)
        small = depgraph.apply(model, chosen, inplace=False).model
        if refit:
            depgraph.reconstruct_(small, model, chosen, images)
        rows.append(_row(name, "yes" if refit else "no", small, cells))
    return rows


def _taylor(graph: depgraph.DimGraph, few: Few, task: Task) -> Criterion:
    for images, targets in few:
        loss_of(graph.model, images, targets, task).backward()
    return taylor


def _fisher(graph: depgraph.DimGraph, few: Few, task: Task) -> Criterion:
    return depgraph.fisher(graph, lambda model, pair: loss_of(model, *pair, task), few)


CRITERIA: dict[str, Callable[[depgraph.DimGraph, Few, Task], Criterion]] = {
    "Taylor": _taylor,
    "Fisher": _fisher,
}


def _drawn(cells: Cells) -> tuple[Tensor, Tensor]:
    """Training images in any order, each by as many right angles as chance has it, and their targets."""
    chance = torch.Generator().manual_seed(cells.seed)
    at = torch.randperm(len(cells.train), generator=chance)[:IMAGES]
    angles = torch.randint(4, (len(at),), generator=chance)
    turned = [torch.rot90(image, int(angle), (1, 2)) for image, angle in zip(cells.train[at], angles)]
    return torch.stack(turned), cells.task.train.targets[at]


def _row(criterion: str, refit: str, model: nn.Module, cells: Cells) -> dict[str, Any]:
    answers, targets = logits(model, cells.test), cells.task.test.targets[: len(cells.test)]
    return {
        "criterion": criterion,
        "refit": refit,
        "seed": cells.seed,
        "macro_f1": metrics(answers, targets, classes=cells.task.classes)["macro_f1"],
        "nll": F.cross_entropy(answers, targets).item(),
        "macs": count_macs(model, cells.test[:1]),
    }


def _summary(arm: tuple[str, str], runs: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("criterion", "refit"), arm))
    for name in ("macro_f1", "nll"):
        values = [run[name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row |= {name: statistics.mean(values), f"{name}_sd": spread}
    return row | {"macs": statistics.mean(run["macs"] for run in runs)}


if __name__ == "__main__":
    main()
