"""Cross-Modal Adapter on 100 to 800 videos of moving digits: zero-shot, full, uni-modal, cross; 3 seeds.

MNIST digits of 14 pixels stand or move over 28 pixels in four frames; captions such as "a video of the seven
moving horizontally in the top". The packed encoder that has seen digits of any size in any place is tuned for
100 to 300 steps, 3 rates an arm chosen by the mean recall on 120 further videos; then each of 120 captions is
to find its video of digits never seen. About 25 minutes on 2 cores. Expected: with the adapters R@5 at least
10 points above zero-shot on every seed; sharing within 2 points of not sharing on the mean, with fewer
numbers; at 100 and 200 videos at least 0.8 of full fine-tuning's R@5; at most 5 % of its trained numbers, and
fewer bytes kept.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.compare import Comparison, compare, grid
from torchard.core.budget import activation_bytes
from torchard.nn.dual_encoder import TinyClip, mnist_digits, tiny_clip
from torchard.nn.dual_encoder.captions import REGIONS
from torchard.nn.dual_encoder.tiny import DIGITS
from torchard.nn.dual_encoder.training import TRAINING_DIGITS
from torchard.tune import cross_modal_adapter as cma

CLAIM = (
    "R@5: adapters 10 points above zero-shot on every seed, sharing within 2 points of not sharing, at least "
    "0.8 of full fine-tuning at 100 and 200 videos; at most 5 % trained, fewer bytes kept."
)
STEPS = {100: 100, 200: 150, 400: 200, 800: 300}
MOTIONS = {
    "still": (0, 0),
    "moving horizontally": (1, 0),
    "moving vertically": (0, 1),
    "moving diagonally": (1, 1),
}
PATH = torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0])  # where a moving digit is in the four frames
BATCH = 64


@dataclass(frozen=True)
class Videos:
    """Preprocessed frames (n, 4, 1, 28, 28), and a caption each."""

    frames: Tensor
    captions: tuple[str, ...]

    def subset(self, rows: Tensor) -> "Videos":
        """Return the videos at ``rows``."""
        return Videos(self.frames[rows], tuple(self.captions[int(row)] for row in rows))


@dataclass(frozen=True)
class Task:
    """Videos to train on, to choose settings by and to test on; ``steps`` overrides their number."""

    train: Videos
    validation: Videos
    test: Videos
    steps: int | None


def main() -> None:
    """Compare the arms, print the table and write ``results/cross_modal_adapter.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--videos", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--steps", type=int, default=None, help="of every training, for a trial")
    parser.add_argument("--results", default="results/cross_modal_adapter.json")
    given = parser.parse_args()
    task = load_task(max(given.videos), given.steps)
    arms = {arm_name(arm, n): partial(ARMS[arm][0], videos=n) for n in given.videos for arm in ARMS}
    settings = {arm_name(arm, n): grid(lr=ARMS[arm][1]) for n in given.videos for arm in ARMS}
    found = compare(arms, task, seeds=range(given.seeds), settings=settings)
    found.save(given.results, claim=CLAIM, verdict=verdict(found, given.videos, costs(task)), digits=1)


def load_task(videos: int, steps: int | None = None) -> Task:
    """Return videos of three disjoint sets of MNIST digits; the encoder has never seen those tested on."""
    images, digits = mnist_digits()
    generator = torch.Generator().manual_seed(0)
    motions, regions = (
        torch.randint(len(kind), (videos,), generator=generator) for kind in (MOTIONS, REGIONS)
    )
    train = filmed(images[:videos], digits[:videos], motions, regions, generator)
    middle, held = slice(TRAINING_DIGITS - 1000, TRAINING_DIGITS), slice(TRAINING_DIGITS, None)
    return Task(
        train,
        gallery(images[middle], digits[middle], generator),
        gallery(images[held], digits[held], generator),
        steps,
    )


def gallery(images: Tensor, digits: Tensor, generator: torch.Generator) -> Videos:
    """Return one video of every digit, motion and region: 120 different captions."""
    kinds = list(product(range(10), range(len(MOTIONS)), range(len(REGIONS))))
    images_of = [torch.nonzero(digits == digit).flatten().tolist() for digit in range(10)]
    rows = [images_of[digit].pop() for digit, _, _ in kinds]  # no image twice
    motions, regions = (torch.tensor([kind[i] for kind in kinds]) for i in (1, 2))
    return filmed(images[rows], digits[rows], motions, regions, generator)


def filmed(
    images: Tensor, digits: Tensor, motions: Tensor, regions: Tensor, generator: torch.Generator
) -> Videos:
    """Return a video of each digit, shrunk to 14 pixels, at its region's height and moving as told."""
    small = F.avg_pool2d(images, 2)
    ways = torch.tensor(list(MOTIONS.values()), dtype=torch.float32)[motions]
    senses = torch.randint(2, (len(images), 2), generator=generator) * 2 - 1
    tops = 3.0 + 4 * regions + torch.randint(-1, 2, (len(images),), generator=generator)
    lefts = torch.where(
        ways[:, 0] > 0, 7.0, torch.randint(3, 12, (len(images),), generator=generator).float()
    )
    rows = (tops[:, None] + 3 * ways[:, 1:] * senses[:, 1:] * PATH).round().clamp(0, 14).long()
    columns = (lefts[:, None] + 6 * ways[:, :1] * senses[:, :1] * PATH).round().clamp(0, 14).long()
    frames = torch.zeros(len(images), len(PATH), 1, 28, 28)
    for video, frame in product(range(len(images)), range(len(PATH))):
        top, left = int(rows[video, frame]), int(columns[video, frame])
        frames[video, frame, :, top : top + 14, left : left + 14] = small[video]
    names = list(MOTIONS)
    captions = tuple(
        f"a video of the {DIGITS[int(digit)]} {names[int(motion)]} in the {REGIONS[int(region)]}"
        for digit, motion, region in zip(digits, motions, regions, strict=True)
    )
    return Videos(
        tiny_clip(pretrained=False).preprocess(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), captions
    )


def zero_shot(task: Task, *, seed: int, lr: float, videos: int) -> dict[str, float]:
    """The encoder as it is."""
    return judged(tiny_clip(variant="placed"), task, trained=0)


def full(task: Task, *, seed: int, lr: float, videos: int) -> dict[str, float]:
    """Every weight of both towers, and the temperature."""
    model = tiny_clip(variant="placed")
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == matrix]} for matrix in (True, False)
    ]
    groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
    return tuned(model, groups, task, videos, lr, seed)


def adapters(task: Task, *, seed: int, lr: float, videos: int, shared: int) -> dict[str, float]:
    """Bottlenecks of 8 in both towers, ``shared`` channels in common."""
    torch.manual_seed(seed)
    model = cma.attach(tiny_clip(variant="placed"), shared_dim=shared)
    return tuned(model, cma.parameter_groups(model, lr=lr, weight_decay=0.2), task, videos, lr, seed)


RATES = [1e-3, 3e-3, 1e-2]
ARMS: dict[str, tuple[Callable[..., dict[str, float]], list[float]]] = {
    "zero-shot": (zero_shot, RATES),
    "full fine-tuning": (full, [2e-4, 5e-4, 2e-3]),
    "uni-modal adapters": (partial(adapters, shared=0), RATES),
    "cross-modal adapters": (partial(adapters, shared=16), RATES),
}


def arm_name(arm: str, videos: int) -> str:
    """Return the name of an arm at one size of the training set."""
    return f"{arm}, {videos} videos"


def tuned(
    model: TinyClip, groups: list[Any], task: Task, videos: int, lr: float, seed: int
) -> dict[str, float]:
    """Train on some of the videos with one cycle of AdamW, gradients clipped at 1, and judge."""
    generator = torch.Generator().manual_seed(seed)
    chosen = task.train.subset(torch.randperm(len(task.train.captions), generator=generator)[:videos])
    steps = task.steps or STEPS.get(videos, 200)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [lr] * len(groups), total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    order = torch.cat(
        [torch.randperm(videos, generator=generator) for _ in range(-(-steps * BATCH // videos))]
    )
    for rows in order.split(min(BATCH, videos))[:steps]:
        loss = batch_loss(model, chosen.subset(rows))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
    return judged(model, task, trained=sum(p.numel() for p in trained))


class Similarities(nn.Module):
    """Frames and tokens to scaled similarities."""

    def __init__(self, model: TinyClip) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, tokens: Tensor) -> Tensor:
        """Return a row for each caption and a column for each video."""
        text = self.model.encode_text(tokens)
        seen = cma.encode_frames(self.model, frames)
        return cma.text_video_similarity(text, seen, logit_scale=self.model.logit_scale)


def batch_loss(model: TinyClip, batch: Videos) -> Tensor:
    """The retrieval loss of a batch in which equal captions all match."""
    similarity = Similarities(model)(batch.frames, model.tokenize(list(batch.captions)))
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(batch.captions))}
    ids = torch.tensor([numbers[caption] for caption in batch.captions])
    return cma.retrieval_loss(similarity, ids[:, None] == ids)


@torch.no_grad()
def judged(model: TinyClip, task: Task, *, trained: int) -> dict[str, float]:
    """Return text-to-video recalls on the test gallery, and their mean on the validation gallery."""
    model.eval()
    found = {}
    for part, videos in (("validation", task.validation), ("test", task.test)):
        text = model.encode_text(model.tokenize(list(videos.captions)))
        similarity = cma.text_video_similarity(text, cma.encode_frames(model, videos.frames))
        found[part] = cma.retrieval_metrics(similarity)["text_to_video"]
    recalls = {f"R@{k}": found["test"][f"R{k}"] for k in (1, 5, 10)}
    chosen_by = statistics.fmean(found["validation"][f"R{k}"] for k in (1, 5, 10))
    return {"validation": chosen_by, **recalls, "trained": float(trained)}


def costs(task: Task) -> dict[str, tuple[int, float]]:
    """Return bytes kept for the backward pass and median seconds of a step, of full and adapter tuning."""
    batch = task.train.subset(torch.arange(min(BATCH, len(task.train.captions))))
    models = {
        "full": tiny_clip(variant="placed").train(),
        "cross": cma.attach(tiny_clip(variant="placed")).train(),
    }
    example = batch.frames, models["full"].tokenize(list(batch.captions))
    kept = {name: activation_bytes(Similarities(model), example) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(11):
        for name, model in models.items():
            start = time.perf_counter()
            batch_loss(model, batch).backward()
            seconds[name].append(time.perf_counter() - start)
    return {name: (kept[name], statistics.median(seconds[name][1:])) for name in models}


def verdict(found: Comparison, sizes: Sequence[int], cost: dict[str, tuple[int, float]]) -> str:
    """Say for each expectation whether it was met."""

    def values(arm: str, videos: int, figure: str = "R@5") -> list[float]:
        return found.values(arm_name(arm, videos), figure)

    most = max(sizes)
    cross, uni = values("cross-modal adapters", most), values("uni-modal adapters", most)
    over_zero = min(a - b for a, b in zip(cross, values("zero-shot", most), strict=True))
    first = (
        statistics.fmean(values("cross-modal adapters", most, "R@1")) - values("zero-shot", most, "R@1")[0]
    )
    gaps = [statistics.fmean(values("cross-modal adapters", n)) for n in sizes]
    unshared = [statistics.fmean(values("uni-modal adapters", n)) for n in sizes]
    sharing = statistics.fmean(a - b for a, b in zip(gaps, unshared, strict=True))
    few = [n for n in sizes if n <= 200]
    shares = {
        n: statistics.fmean(values("cross-modal adapters", n))
        / max(statistics.fmean(values("full fine-tuning", n)), 1e-9)
        for n in few
    }
    trained = (
        values("cross-modal adapters", most, "trained")[0] / values("full fine-tuning", most, "trained")[0]
    )
    checks = {
        f"{most} videos, worst seed {over_zero:+.1f} points over zero-shot": over_zero >= 10,
        f"sharing {sharing:+.1f} points over all sizes ({statistics.fmean(cross):.1f} and "
        f"{statistics.fmean(uni):.1f} with {most} videos)": sharing >= -2,
        **{f"{share:.2f} of full fine-tuning with {n} videos": share >= 0.8 for n, share in shares.items()},
        f"{trained:.1%} trained": trained <= 0.05,
        f"{cost['cross'][0] / cost['full'][0]:.2f} of its kept bytes": cost["cross"][0] < cost["full"][0],
        f"{cost['cross'][1] / cost['full'][1]:.2f} of its step time": cost["cross"][1] < cost["full"][1],
    }
    told = "; ".join(f"{text}: {'yes' if met else 'no'}" for text, met in checks.items())
    return f"{told}. R@1 {first:+.1f} points over zero-shot with {most} videos."


if __name__ == "__main__":
    main()
