"""Is it worth learning what a transformer can do without? Digits, half the operations, 3 seeds.

A small vision transformer (6 blocks, width 48, 4 heads, MLP 96) learns scikit-learn's digits as 8×8 images in
2×2 patches. UVC takes it to half its MACs in two stages. Against it, at the same budget for exported MACs and
with the same number of epochs after the dense training: heads and units of least magnitude removed alike from
all blocks, and every other block skipped, both trained on under the same distillation; UVC without
distillation; and a smaller transformer from scratch, which gets the dense model's epochs as well. About 10
minutes on two idle cores; ``--data mnist`` takes the 10,000 digits at 14×14, in about an hour.

Expected: at most half of the operations; within 1.5 points of the dense model; on the mean at most 0.3 points
below any of the others, and at least as good as the better of the two simple ways.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from experiments import record
from torchard.cli.console import Column, progress
from torchard.core.budget import count_macs
from torchard.core.data import InputSpec, Loader, Task, load_task
from torchard.core.trainer import Trainer
from torchard.prune.uvc import Counts, Distillation, Distilled, Search, UVCDecision, ViTSpec, compress, export
from torchard.prune.uvc.scores import measure_scores
from torchard.prune.uvc.stages import accuracy
from torchard.prune.uvc.structure import parts_of

BUDGET = 0.5
DEPTH, WIDTH, HEADS = 6, 48, 4
SIDES = {"digits": 8, "mnist": 14}
RATE = 1e-3  # the same for all; no arm was tuned
CLAIM = "Half the MACs within 1.5 points of dense, and no simpler way more than 0.3 points above."
COLUMNS = [
    Column("arm"),
    Column("accuracy", "accuracy", "%", scale=100, digits=1, spread="accuracy sd"),
    Column("macs", "MACs kept", digits=3),
    Column("blocks", digits=1),
    Column("heads", digits=1),
    Column("dims", "value dims", digits=1),
    Column("units", "MLP units", digits=1),
    Column("seconds", digits=0),
]


@dataclass(frozen=True)
class Course:
    """What every arm is trained on, and for how many epochs: dense, search, after it."""

    task: Task
    side: int
    epochs: tuple[int, int, int]
    seed: int

    @property
    def example(self) -> Tensor:
        """One image of zeros."""
        return torch.zeros(1, 3, self.side, self.side)

    def loader(self, split: str, *, shuffle: bool) -> Loader:
        """Batches of a split."""
        spec = InputSpec((self.side, self.side), (0.3,) * 3, (0.35,) * 3, interpolation="bilinear")
        part = getattr(self.task, split)
        return Loader(part, spec, batch_size=64, shuffle=shuffle, seed=self.seed)

    def tested(self, model: nn.Module) -> float:
        """Accuracy on the test split."""
        return accuracy(model.eval(), self.loader("test", shuffle=False))


def main() -> None:
    """Run all arms over all seeds, print the table and write ``results/uvc.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(SIDES), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, nargs=3, default=(80, 40, 60), metavar=("DENSE", "SEARCH", "AFTER")
    )
    parser.add_argument("--results", default="results/uvc.json")
    given = parser.parse_args()
    task = load_task(given.data)
    runs = []
    for seed in range(given.seeds):
        runs += arms_of(Course(task, SIDES[given.data], tuple(given.epochs), seed))
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    rows = [summary([run for run in runs if run["arm"] == arm]) for arm in arms]
    details = {"runs": runs, "epochs": list(given.epochs), "data": given.data, "budget": BUDGET}
    record.save(given.results, rows, COLUMNS, claim=CLAIM, verdict=verdict(rows), details=details)


def arms_of(course: Course) -> list[dict[str, Any]]:
    """Train one dense network, and return a row for it and for every arm."""
    torch.manual_seed(course.seed)
    begun = time.perf_counter()
    dense = network(course.side)
    fit(dense, course, course.epochs[0])
    spec = ViTSpec.from_model(dense, course.example)
    rows = [_row("dense", course, dense, UVCDecision.dense(spec), spec, begun)]
    for arm, make in ARMS.items():
        torch.manual_seed(course.seed)
        begun = time.perf_counter()
        model, decision = make(copy.deepcopy(dense), course, spec)
        rows.append(_row(arm, course, model, decision, spec, begun))
    return rows


def by_uvc(
    dense: nn.Module, course: Course, _: ViTSpec, *, alpha: float = 0.1
) -> tuple[nn.Module, UVCDecision]:
    """Both stages."""
    found = compress(
        dense,
        course.loader("train", shuffle=True),
        None,
        BUDGET,
        epochs=course.epochs[1:],
        example=course.example,
        search=Search(warmup_epochs=max(1, course.epochs[1] // 6)),
        distillation=Distillation(alpha=alpha),
        learning_rate=RATE,
        seed=course.seed,
    )
    return found.model, found.decision


def by_magnitude(dense: nn.Module, course: Course, spec: ViTSpec) -> tuple[nn.Module, UVCDecision]:
    """Heads and units of least magnitude, equally many from every block and in as like shares as can be."""
    choices = [_fitted(dense, spec, heads=heads) for heads in range(1, spec.heads)]
    decision = min(
        choices, key=lambda one: abs(len(one.heads[0]) / spec.heads - len(one.units[0]) / spec.hidden)
    )
    return _trained_on(dense, course, decision)


def by_depth(dense: nn.Module, course: Course, spec: ViTSpec) -> tuple[nn.Module, UVCDecision]:
    """Every other block; then units of least magnitude, since stem and classifier stay."""
    return _trained_on(dense, course, _fitted(dense, spec, skipped=range(1, spec.depth, 2)))


def from_scratch(dense: nn.Module, course: Course, spec: ViTSpec) -> tuple[nn.Module, UVCDecision]:
    """A narrower transformer with all the epochs that the others had together."""

    def fits(width: int, hidden: int) -> bool:
        return count_macs(network(course.side, width, hidden), course.example) <= BUDGET * spec.macs

    width = next(width for width in range(WIDTH, 0, -HEADS) if fits(width, 2 * width))
    hidden = next(hidden for hidden in range(3 * width, 0, -1) if fits(width, hidden))
    model = network(course.side, width, hidden)
    fit(model, course, sum(course.epochs))
    return model, UVCDecision.dense(ViTSpec.from_model(model, course.example))


ARMS: dict[str, Callable[..., tuple[nn.Module, UVCDecision]]] = {
    "UVC": by_uvc,
    "uniform magnitude": by_magnitude,
    "every other block": by_depth,
    "UVC without distillation": partial(by_uvc, alpha=0.0),
    "small from scratch": from_scratch,
}


def network(side: int, width: int = WIDTH, hidden: int = 2 * WIDTH) -> VisionTransformer:
    """The transformer under test."""
    sizes = {"embed_dim": width, "depth": DEPTH, "num_heads": HEADS, "num_classes": 10}
    # A little more than the ratio: timm rounds the product down.
    return VisionTransformer(img_size=side, patch_size=2, mlp_ratio=(hidden + 0.1) / width, **sizes)


def fit(model: nn.Module, course: Course, epochs: int, *, teaching: Distilled | None = None) -> None:
    """Train with AdamW and a cosine, as UVC does."""
    Trainer(
        model,
        F.cross_entropy,
        torch.optim.AdamW(model.parameters(), lr=RATE),
        course.loader("train", shuffle=True),
        epochs=epochs,
        scheduler=lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
        callbacks=[] if teaching is None else [teaching],
        seed=course.seed,
    ).fit()


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the spread of the accuracy."""
    row: dict[str, Any] = {"arm": runs[0]["arm"]}
    for name in ("accuracy", "macs", "blocks", "heads", "dims", "units", "seconds"):
        row[name] = statistics.fmean(run[name] for run in runs)
    row["accuracy sd"] = statistics.stdev(run["accuracy"] for run in runs) if len(runs) > 1 else None
    row["most macs"] = max(run["macs"] for run in runs)
    return row


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Say for each expectation whether it was met."""
    points = {row["arm"]: 100 * row["accuracy"] for row in rows}
    ours, others = points["UVC"], [arm for arm in ARMS if arm != "UVC"]
    best = max(others, key=points.__getitem__)
    simple = max(points["uniform magnitude"], points["every other block"])
    most = next(row["most macs"] for row in rows if row["arm"] == "UVC")
    checks = {
        f"at most half of the MACs ({most:.4f})": most <= BUDGET,
        f"{points['dense'] - ours:.1f} points below dense": points["dense"] - ours <= 1.5,
        f"{points[best] - ours:+.1f} from {best}": points[best] - ours <= 0.3,
        f"{ours - simple:+.1f} against the better simple way": ours >= simple,
    }
    return "; ".join(f"{'held' if held else 'NOT held'}: {what}" for what, held in checks.items())


def _trained_on(dense: nn.Module, course: Course, decision: UVCDecision) -> tuple[nn.Module, UVCDecision]:
    """Cut at once, and trained for as many epochs as both stages of UVC, under the same teacher."""
    teaching = Distilled(dense, Distillation())
    small = export(dense, decision, example=course.example)
    fit(small, course, course.epochs[1] + course.epochs[2], teaching=teaching)
    return small, decision


def _fitted(dense: nn.Module, spec: ViTSpec, *, heads: int = 0, skipped: Sequence[int] = ()) -> UVCDecision:
    """Some heads and blocks gone, and as few units as needed, equally many from each block."""
    scores, keep = measure_scores(parts_of(dense), spec), torch.ones(spec.depth, dtype=torch.bool)
    keep[list(skipped)] = False
    same, dims = (
        torch.ones(spec.depth, dtype=torch.long),
        torch.zeros(spec.depth, spec.heads, dtype=torch.long),
    )
    for units in range(spec.hidden):
        decision = Counts(heads * same, dims, units * same, keep).decision(scores, ragged=False)
        if decision.macs(spec) <= BUDGET * spec.macs:
            return decision
    return decision


def _row(
    arm: str, course: Course, model: nn.Module, decision: UVCDecision, spec: ViTSpec, begun: float
) -> dict[str, Any]:
    seconds = time.perf_counter() - begun
    own = ViTSpec.from_model(model, course.example) if arm == "small from scratch" else spec
    left = {name: kept for name, (kept, _) in decision.summary(own).items() if name != "macs"}
    macs = count_macs(model, course.example) / spec.macs
    row = {"arm": arm, "seed": course.seed, "accuracy": course.tested(model), "macs": macs, **left}
    shown = f"{100 * row['accuracy']:.1f} % at {macs:.3f} of the MACs"
    progress().print(f"seed {course.seed}  {arm}  {shown}  ({seconds:.0f} s)")
    return {**row, "seconds": seconds}


if __name__ == "__main__":
    main()
