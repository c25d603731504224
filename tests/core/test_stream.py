"""core.stream: any loader goes on from where it was, and processes share each batch fairly."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from torchard.core import checkpoint
from torchard.core.data import Batch
from torchard.core.errors import UsageError
from torchard.core.stream import BatchStream, ResumableLoader, as_batch, share

NUMBERS = torch.arange(22)


class Noisy(Dataset):
    """Samples that draw from the global generator when they are read, as augmentations do."""

    def __len__(self) -> int:
        return len(NUMBERS)

    def __getitem__(self, index: int):
        return NUMBERS[index] + torch.rand(()), NUMBERS[index]


class Counting:
    """A loader that keeps its own position."""

    def __init__(self) -> None:
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return 5

    def __iter__(self):
        start = self.position
        for number in range(start, 5):
            self.position = number + 1
            yield Batch(
                torch.full((2,), 10 * self.epoch + number), torch.zeros(2), torch.zeros(2, dtype=torch.int64)
            )
        self.position = 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


def shuffling():
    return DataLoader(Noisy(), batch_size=5, shuffle=True)


def with_generator():
    return DataLoader(Noisy(), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))


def with_epoch_sampler():
    dataset = TensorDataset(NUMBERS, NUMBERS)
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True)
    return DataLoader(dataset, batch_size=5, sampler=sampler)


KINDS = [shuffling, with_generator, with_epoch_sampler, Counting]


def read(stream: BatchStream, epochs, *, draw: bool = False) -> list[list[float]]:
    found = []
    for epoch in epochs:
        for batch in stream.batches(epoch):
            found.append(batch.inputs.tolist())
            if draw:
                torch.rand(3)  # a model with dropout
    return found


@pytest.mark.parametrize("make", KINDS)
def test_a_restored_stream_goes_on_where_the_other_stopped(make, tmp_path):
    whole = read(BatchStream(make()), range(3))
    for stop in range(1, len(whole)):
        first = BatchStream(make())
        taken = itertools.islice((batch for epoch in range(3) for batch in first.batches(epoch)), stop)
        head = [batch.inputs.tolist() for batch in taken]
        checkpoint.save(tmp_path / "state", first.state_dict())
        second = BatchStream(make())
        second.load_state_dict(checkpoint.load(tmp_path / "state"))
        assert head + read(second, range(second.epoch, 3)) == whole


@pytest.mark.parametrize("make", KINDS)
def test_a_restored_stream_can_begin_the_next_epoch(make):
    whole = read(BatchStream(make()), range(2))
    first, second = BatchStream(make()), BatchStream(make())
    read(first, range(1))
    second.load_state_dict(first.state_dict())
    assert read(second, [1]) == whole[len(whole) // 2 :]


@pytest.mark.parametrize("make", KINDS)
def test_what_the_model_draws_changes_no_batch_and_reading_changes_nothing_the_model_draws(make):
    assert read(BatchStream(make()), range(2), draw=True) == read(BatchStream(make()), range(2))
    before = torch.get_rng_state()
    read(BatchStream(make()), range(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_differ():
    epochs = read(BatchStream(shuffling()), range(2))
    assert epochs[:5] != epochs[5:]
    assert read(BatchStream(shuffling(), seed=1), range(1)) != epochs[:5]


def test_an_epoch_left_early_begins_anew():
    stream = BatchStream(Counting())
    assert [batch.inputs[0].item() for batch in itertools.islice(stream.batches(0), 2)] == [0, 1]
    assert stream.position == 2
    stream = BatchStream(shuffling())
    first = next(stream.batches(0)).inputs.tolist()
    assert stream.position == 1
    assert next(stream.batches(1)).inputs.tolist() != first
    assert stream.position == 1


def test_length_is_zero_when_the_loader_knows_none():
    assert len(BatchStream(iter([]))) == 0
    assert len(BatchStream(Counting())) == 5


def test_our_loader_and_only_such_ones_are_resumable():
    from torchard.core.data import Loader

    assert issubclass(Loader, ResumableLoader)
    assert isinstance(Counting(), ResumableLoader)
    assert not isinstance(shuffling(), ResumableLoader)


def test_pairs_become_batches_without_positions():
    batch = as_batch([torch.ones(3, 2), torch.zeros(3)])
    assert batch.indices.tolist() == [-1, -1, -1]
    assert as_batch(batch) is batch


@pytest.mark.parametrize(
    "item",
    [
        None,
        torch.ones(2),
        [],
        (torch.ones(2),),
        (torch.ones(2), torch.ones(3)),
        (torch.tensor(1), torch.tensor(1)),
    ],
)
def test_what_is_no_batch_is_told_in_one_line(item):
    with pytest.raises(UsageError, match="`loader`") as caught:
        as_batch(item)
    assert "\n" not in str(caught.value)


@given(size=st.integers(1, 9), world=st.integers(1, 5))
def test_shares_hold_every_sample_once_and_weigh_to_the_mean_of_the_batch(size, world):
    numbers = torch.arange(float(size))
    batch = Batch(numbers, numbers, torch.arange(size))
    parts = [share(batch, rank, world) for rank in range(world)]
    seen = torch.cat([part.indices for part, weight in parts if weight])
    assert sorted(seen.tolist()) == list(range(size))
    mean = sum(weight * part.inputs.mean() for part, weight in parts) / world
    torch.testing.assert_close(mean, numbers.mean())
    assert all(len(part.inputs) for part, _ in parts)
