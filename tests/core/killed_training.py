"""Train small models in processes that are killed again and again; print what came out, to be compared.

Run as ``python killed_training.py FOLDER``. One process imports torch and forks every training: a kill then
costs milliseconds. Two ways to die: SIGKILL from outside after a random time, and from inside, just before or
after the n-th call of the operating system that writes, syncs or renames.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchard.core import keeper
from torchard.core.data import InputSpec, Loader, Split
from torchard.core.trainer import Callback, Trainer

WRITING = ("write", "fsync", "replace", "ftruncate", "pwrite")
EPOCHS = 4


class Noise(Callback):
    """Draw from every source of randomness, and remember something that grows."""

    def __init__(self) -> None:
        self.mean = torch.zeros(())
        self.drawn = 0.0

    def on_batch(self, run, batch):
        scale = torch.rand((), generator=run.generator) + random.random()
        return batch.replace(inputs=batch.inputs + 0.01 * scale * torch.randn_like(batch.inputs))

    def on_step_end(self, run):
        self.mean = 0.9 * self.mean + 0.1 * run.optimizer.param_groups[0]["params"][0].detach().mean()
        self.drawn += random.random()
        run.log(step=run.step, mean=self.mean, drawn=self.drawn)

    def state_dict(self):
        return {"mean": self.mean, "drawn": self.drawn}

    def load_state_dict(self, state):
        self.mean, self.drawn = state["mean"], state["drawn"]


def convolutional(folder: Path | None) -> Trainer:
    """Our loader, images in channels last, a function for the learning rate."""
    draw = random.Random(0)
    images = [Image.frombytes("RGB", (8, 8), draw.randbytes(192)) for _ in range(22)]
    targets = torch.arange(22) % 2
    split = Split(images, targets, tuple(map(str, range(22))))
    spec = InputSpec((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    loader = Loader(split, spec, batch_size=5, shuffle=True, seed=3)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 2)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Trainer(
        model,
        nn.functional.cross_entropy,
        optimizer,
        loader,
        epochs=EPOCHS,
        scheduler=lambda fraction: 1 - fraction,
        callbacks=[Noise()],
        evaluate=lambda model: {"norm": sum(p.square().sum() for p in model.parameters())},
        folder=folder,
    )


def plain(folder: Path | None) -> Trainer:
    """A plain DataLoader that shuffles with a generator of its own, a torch scheduler, momentum."""
    generator = torch.Generator().manual_seed(5)
    inputs, targets = torch.randn(24, 4, generator=generator), torch.rand(24, 1, generator=generator)
    shuffling = torch.Generator().manual_seed(6)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=5, shuffle=True, generator=shuffling)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return Trainer(
        model,
        nn.functional.mse_loss,
        optimizer,
        loader,
        steps=5 * EPOCHS - 2,
        scheduler=scheduler,
        callbacks=[Noise()],
        evaluate=lambda model: {
            "error": nn.functional.mse_loss(model(inputs), targets),
            "draw": torch.rand(()),
        },
        folder=folder,
    )


def train(build: Callable[[Path], Trainer], folder: Path) -> None:
    torch.manual_seed(1)
    trainer = build(folder)
    trainer.fit(checkpoint_seconds=0)
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def die_at(count: int, *, after: bool) -> None:
    """Kill this process at the ``count``-th writing call from now, before or after it is done."""
    left = [count]

    def deadly(call):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if after:
                    call(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in WRITING:
        setattr(os, name, deadly(getattr(os, name)))


def forked(work: Callable[[], None], *, seconds: float | None = None) -> bool:
    """Do ``work`` in a forked process, killed after ``seconds``; return whether it came to its end."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("a training failed instead of being killed")
    return os.WIFEXITED(status)


def doomed(build: Callable[[Path], Trainer], folder: Path, count: int, after: bool) -> None:
    die_at(count, after=after)
    train(build, folder)


def killed_until_done(build, folder: Path, draw: random.Random, *, by_time: bool, usual: float) -> int:
    """Train, killed over and over at random moments; return how often."""
    for kills in range(1000):
        if by_time:
            done = forked(partial(train, build, folder), seconds=draw.uniform(0, 0.5 * usual))
        else:
            count, after = draw.randint(1, 25), draw.random() < 0.5
            done = forked(partial(doomed, build, folder, count, after))
        if done:
            return kills
    raise RuntimeError("never done")


def outcome(folder: Path) -> dict:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = sorted(path.name for path in folder.iterdir())
    return {
        "digest": (folder / "digest").read_text(),
        "metrics": [{key: value for key, value in line.items() if key != "time"} for line in lines],
        "files": names,
    }


def main(root: Path) -> None:
    torch.set_num_threads(1)
    keeper.SHARE = 0  # a checkpoint after every step, whatever it costs
    draw = random.Random(0)
    answer = {}
    for build in (convolutional, plain):
        build(None).fit()  # here, so that no forked process has to import what a first fit imports
        begun = time.monotonic()
        forked(partial(train, build, root / f"{build.__name__}-whole"))
        usual = time.monotonic() - begun
        kills = {}
        for by_time in (True, False):
            folder = root / f"{build.__name__}-{by_time}"
            kills[by_time] = killed_until_done(build, folder, draw, by_time=by_time, usual=usual)
        answer[build.__name__] = {
            "whole": outcome(root / f"{build.__name__}-whole"),
            "killed by time": outcome(root / f"{build.__name__}-True"),
            "killed while writing": outcome(root / f"{build.__name__}-False"),
            "kills": list(kills.values()),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
