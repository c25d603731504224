"""Batches in an order that depends on the seed and the epoch alone, from any position."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Generator, Tensor

from torchard.core.data.arrays import CACHE_BYTES, decode, normalise, uint8_images
from torchard.core.data.batch import Batch
from torchard.core.data.spec import InputSpec
from torchard.core.data.split import Split

Augment = Callable[[Tensor, Generator], Tensor]


class Loader:
    """Iterate over a split in normalised batches, one epoch per iteration.

    The order of epoch ``e`` is a function of ``(seed, e)``, and each batch has its own random generator, a
    function of ``(seed, e, batch)``; so a restored loader goes on exactly where the other stopped. Finishing
    an iteration moves on to the next epoch; leaving it early does not.

    ``augment`` gets a uint8 batch (channels last in memory) and a generator, and returns uint8 or floats in
    0…255. ``soft_targets`` hands out the split's class probabilities in place of class numbers.

    Images are decoded once and kept, 3 bytes a pixel, if all of them fit ``cache_bytes``; otherwise each
    batch is decoded when needed, one ahead, in threads.
    """

    def __init__(
        self,
        split: Split,
        spec: InputSpec,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        augment: Augment | None = None,
        drop_last: bool = False,
        soft_targets: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size={batch_size}` must be at least 1")
        if soft_targets and split.soft_targets is None:
            raise ValueError("`soft_targets=True`, but this split has no soft targets; leave it out")
        self.split, self.spec, self.batch_size = split, spec, batch_size
        self.shuffle, self.seed, self.augment, self.drop_last = shuffle, seed, augment, drop_last
        self.soft_targets, self.cache_bytes = soft_targets, cache_bytes
        self.epoch = self.position = self._start = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        self.position = start
        order = self.order()
        rows = [order[number * self.batch_size :][: self.batch_size] for number in range(start, len(self))]
        for number, (indices, images) in enumerate(zip(rows, self._read(rows)), start):
            # Counted before it is handed out: a checkpoint after this batch's step must not repeat it.
            self.position = number + 1
            yield self._batch(images, indices, self._generator(number))
        self.set_epoch(self.epoch + 1)

    def order(self) -> Tensor:
        """Return the positions of this epoch's samples, in the order they are handed out."""
        count = len(self.split)
        return torch.randperm(count, generator=self._generator(-1)) if self.shuffle else torch.arange(count)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; to name the present one changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and how many batches of it were handed out."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on where the other loader was.

        Raises:
            ValueError: if that loader had another seed, so another order.
        """
        if state["seed"] != self.seed:
            raise ValueError(
                f"the saved order has seed {state['seed']}, this loader {self.seed}; use the same seed"
            )
        self.epoch = int(state["epoch"])
        self.position = self._start = int(state["position"])

    def _read(self, rows: list[Tensor]) -> Iterator[Tensor]:
        height, width = self.spec.size
        if 3 * height * width * len(self.split) <= self.cache_bytes:
            images = uint8_images(
                self.split, self.spec.size, interpolation=self.spec.interpolation, rule=self.spec.rule
            )
            return (images[indices] for indices in rows)
        return self._read_ahead(rows)

    def _read_ahead(self, rows: list[Tensor]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[Tensor] | None = None
            for number in range(len(rows)):
                current = ahead or pool.submit(decode, self.split, rows[number].tolist(), self.spec)
                if number + 1 < len(rows):
                    ahead = pool.submit(decode, self.split, rows[number + 1].tolist(), self.spec)
                yield current.result()

    def _batch(self, images: Tensor, indices: Tensor, generator: Generator) -> Batch:
        if self.augment is not None:
            images = self.augment(images, generator)
        targets = self.split.soft_targets if self.soft_targets else self.split.targets
        assert targets is not None
        return Batch(normalise(images, self.spec), targets[indices], indices)

    def _generator(self, number: int) -> Generator:
        """One stream per (seed, epoch, batch); batch −1 is the order's own."""
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
