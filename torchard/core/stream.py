"""Batches of any loader, from a position that can be saved and found again; one process's share of each."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from torchard.core.data.batch import Batch
from torchard.core.errors import UsageError
from torchard.core.randomness import random_state, randomness_kept, seed_everything, set_random_state


@runtime_checkable
class ResumableLoader(Protocol):
    """A loader that knows its position: after ``load_state_dict`` its next iteration goes on from there."""

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class BatchStream:
    """Hand out a loader's batches, epoch by epoch, and remember how many of the epoch are out.

    A :class:`ResumableLoader` (such as ``torchard.core.data.Loader``) keeps its own position and
    randomness. Any other, such as a plain ``DataLoader``, is read under global random states of its own,
    seeded with ``seed``: its order then depends neither on what the model draws nor on the process. To be
    resumed it is wound forward: these states, and those of its own generators, are set to what they were
    when the epoch began, and as many batches as were out are read and thrown away. That is exact, and costs
    the reading; a sampler with hidden state of another kind is not found again.
    """

    def __init__(self, loader: Iterable[Any], *, seed: int = 0) -> None:
        self.loader, self.epoch, self.position = loader, 0, 0
        self._resuming = False
        with randomness_kept():
            seed_everything(seed)
            self._random = random_state(devices=False)
        self._begun = self._randomness()

    def __len__(self) -> int:
        """Batches per epoch, or 0 if the loader does not know."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return 0

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Return an iterator over what is left of ``epoch``: all, unless its state was just loaded."""
        for owner in (self.loader, getattr(self.loader, "sampler", None)):
            if callable(set_epoch := getattr(owner, "set_epoch", None)):
                set_epoch(epoch)
        if not (self._resuming and epoch == self.epoch):
            self.epoch, self.position, self._begun = epoch, 0, self._randomness()
        self._resuming = False
        return self._counted(self._items())

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position, and what it takes to find them again."""
        own = self.loader.state_dict() if isinstance(self.loader, ResumableLoader) else None
        places = {"epoch": self.epoch, "position": self.position, "loader": own}
        return places | {"begun": self._begun, "now": self._randomness()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where another stream was; the next :meth:`batches` of that epoch goes on there."""
        self.epoch, self.position, self._begun = state["epoch"], state["position"], state["begun"]
        self._resuming = True
        self._set_randomness(state["now"])
        if isinstance(self.loader, ResumableLoader):
            self.loader.load_state_dict(state["loader"])

    def _counted(self, items: Iterator[Any]) -> Iterator[Batch]:
        for item in items:
            self.position += 1
            yield as_batch(item)

    def _items(self) -> Iterator[Any]:
        if isinstance(self.loader, ResumableLoader):
            yield from self.loader
            return
        self._set_randomness(self._begun)
        with self._own_randomness():
            items = iter(self.loader)
            for _ in range(self.position):
                next(items)
        while True:
            with self._own_randomness():
                item = next(items, self)
            if item is self:
                return
            yield item

    def _randomness(self) -> dict[str, Any]:
        return {"global": self._random, "own": [generator.get_state() for generator in self._generators()]}

    def _set_randomness(self, state: dict[str, Any]) -> None:
        self._random = state["global"]
        for generator, words in zip(self._generators(), state["own"]):
            generator.set_state(words)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        with randomness_kept(devices=False):
            set_random_state(self._random)
            yield
            self._random = random_state(devices=False)

    def _generators(self) -> list[torch.Generator]:
        owners = (self.loader, getattr(self.loader, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return [generator for generator in found if isinstance(generator, torch.Generator)]


def as_batch(item: Any) -> Batch:
    """Return a loader's item as a batch; a plain ``(inputs, targets)`` has −1, unknown, for sample positions.

    Raises:
        UsageError: if it is neither a batch nor two tensors of one length.
    """
    if isinstance(item, Batch):
        return item
    pair = tuple(item) if isinstance(item, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) and part.dim() for part in pair):
        raise UsageError(f"`loader` must yield Batch or (inputs, targets) tensors; it gave a {_kind(item)}.")
    inputs, targets = pair
    if len(inputs) != len(targets):
        raise UsageError(f"`loader` gave {len(inputs)} inputs with {len(targets)} targets.")
    return Batch(inputs, targets, torch.full((len(inputs),), -1))


def share(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """Return the part of ``batch`` that process ``rank`` of ``world`` gets, and the weight of its mean loss.

    The mean over processes of weight times mean loss is the mean loss of the whole batch. A process that
    nothing is left for works on the first sample, with weight 0, since it must take part in the exchange of
    gradients.
    """
    if world == 1:
        return batch, 1.0
    mine = slice(rank, None, world)
    part = batch.replace(inputs=batch.inputs[mine], targets=batch.targets[mine], indices=batch.indices[mine])
    if len(part.inputs):
        return part, len(part.inputs) * world / len(batch.inputs)
    return batch.replace(inputs=batch.inputs[:1], targets=batch.targets[:1], indices=batch.indices[:1]), 0.0


def _kind(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"{type(item).__name__} of {', '.join(type(part).__name__ for part in item[:4]) or 'nothing'}"
    return type(item).__name__
