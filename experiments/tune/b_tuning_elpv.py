"""B-Tuning on solar cells: EfficientNet-Lite0 with three other networks as teachers, 300 labels, 3 seeds.

The teachers are of other architectures: EfficientNet-Lite1, -Lite2 and MobileNetV2, each reading images
normalised its own way. Cells at 96 pixels, 12 epochs, 4 trials an arm chosen on 100 further cells, AUROC on
all others. About 40 minutes. Expected: B-Tuning at least as good as plain fine-tuning.
"""

import argparse
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.compare import Comparison, compare, grid
from experiments.tune.solar_cells import CLASSES, MODEL, Cells, draw, load_cells, logits
from torchard import hub
from torchard.core.data import InputSpec, class_weights, metrics
from torchard.core.trainer import Batch, Trainer
from torchard.tune.b_tuning import BTuning

CLAIM = "B-Tuning with teachers of other architectures: at least plain fine-tuning's AUROC."
TEACHERS = ("tf_efficientnet_lite1", "tf_efficientnet_lite2", "mobilenetv2_100")


def main() -> None:
    """Compare, print the table and write ``results/b_tuning_elpv.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=None)
    parser.add_argument("--results", default="results/b_tuning_elpv.json")
    given = parser.parse_args()
    subject = load_cells(given.size), given
    found = compare(ARMS, subject, seeds=range(given.seeds), settings=SETTINGS)
    found.save(given.results, claim=CLAIM, verdict=verdict(found), digits=2)


def plain(subject: tuple[Cells, Any], *, seed: int, lr: float) -> dict[str, float]:
    """Fine-tuning without teachers."""
    return _tuned(subject, seed, lr, None)


def b_tuning(
    subject: tuple[Cells, Any], *, seed: int, lr: float, tradeoff: float | Literal["auto"]
) -> dict[str, float]:
    """Fine-tuning with three teachers."""
    return _tuned(subject, seed, lr, tradeoff)


ARMS = {"plain fine-tuning": plain, "B-Tuning": b_tuning}
SETTINGS = {
    "plain fine-tuning": grid(lr=[3e-4, 1e-3, 3e-3, 1e-2]),
    "B-Tuning": grid(lr=[1e-3, 3e-3], tradeoff=["auto", 1.0]),
}


def verdict(found: Comparison) -> str:
    """Say how far the two are apart."""
    gain, spread = found.paired("B-Tuning", "plain fine-tuning", "AUROC")
    met = "as expected" if gain >= 0 else "not reproduced at this scale"
    return f"B-Tuning is {gain:+.2f} ± {spread:.2f} points of AUROC from plain fine-tuning: {met}."


def renormalised(before: InputSpec, after: InputSpec) -> Callable[[Tensor], Tensor]:
    """Return a function from a batch normalised one way to the same images normalised another way."""
    old_mean, old_std, mean, std = (
        torch.tensor(values)[:, None, None] for values in (before.mean, before.std, after.mean, after.std)
    )
    return lambda images: (images * old_std + old_mean - mean) / std


def _tuned(
    subject: tuple[Cells, Any], seed: int, lr: float, tradeoff: float | Literal["auto"] | None
) -> dict[str, float]:
    cells, given = subject
    parts = draw(cells, seed, train=given.train, validation=100, test=given.test)
    model = hub.load(MODEL, num_classes=2)
    batches = _batches(parts.train)
    callbacks = [] if tradeoff is None else [_callback(batches, tradeoff)]
    weights = class_weights(parts.train.targets, 2)
    classifier = list(model.get_classifier().parameters())  # type: ignore[operator]
    backbone = [p for p in model.parameters() if all(p is not q for q in classifier)]
    optimizer = torch.optim.SGD(
        [{"params": backbone}, {"params": classifier, "lr": 10 * lr}],
        lr=lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    Trainer(
        model,
        lambda outputs, targets: cross_entropy(outputs, targets, weight=weights),
        optimizer,
        batches,
        epochs=given.epochs,
        scheduler=lambda fraction: 1.0 if fraction < 2 / 3 else 0.1,
        callbacks=callbacks,
        seed=seed,
    ).fit()
    return {
        "validation": _auroc(logits(model, parts.validation.images), parts.validation.targets),
        "AUROC": _auroc(logits(model, parts.test.images), parts.test.targets),
    }


def _callback(batches: list[Batch], tradeoff: float | Literal["auto"]) -> BTuning:
    spec = hub.input_spec(MODEL)
    return BTuning(
        {name: hub.load(name, num_classes=2) for name in TEACHERS},
        batches,
        tradeoff=tradeoff,
        teacher_transforms={name: renormalised(spec, hub.input_spec(name)) for name in TEACHERS},
    )


def _batches(cells: Cells) -> list[Batch]:
    """A fixed order of mixed batches; no augmentation."""
    order = torch.randperm(len(cells.targets), generator=torch.Generator().manual_seed(0))
    return [Batch(cells.images[rows], cells.targets[rows], rows) for rows in order.split(25)]


def _auroc(scores: Tensor, targets: Tensor) -> float:
    return 100 * float(metrics(scores, targets, classes=CLASSES)["auroc"])


if __name__ == "__main__":
    main()
