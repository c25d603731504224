import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchard.core.data import InputSpec, Loader, Split, tensors
from torchard.core.data.augment import random_light, random_mirror
from torchard.core.data.split import ArrayImages

SPEC = InputSpec((6, 6))


def numbered(count: int) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    names = tuple(map(str, range(count)))
    return Split(ArrayImages(pixels), torch.arange(count) % 3, names, soft_targets=torch.rand(count, 3))


SPLIT = numbered(23)


def epoch(loader: Loader) -> list[torch.Tensor]:
    return [torch.cat([batch.inputs.flatten(), batch.indices.float()]) for batch in loader]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@given(batch_size=st.integers(1, 30), seed=st.integers(-5, 2**40), drop_last=st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_epoch_holds_every_sample_once(batch_size, seed, drop_last):
    loader = Loader(SPLIT, SPEC, batch_size=batch_size, shuffle=True, seed=seed, drop_last=drop_last)
    batches = list(loader)
    seen = [index for batch in batches for index in batch.indices.tolist()]
    assert len(batches) == len(loader)
    assert len(set(seen)) == len(seen) == (len(SPLIT) // batch_size * batch_size if drop_last else len(SPLIT))
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_without_shuffling_and_augmentation_batches_are_the_reference():
    batches = list(Loader(SPLIT, SPEC, batch_size=5, shuffle=False))
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), tensors(SPLIT, SPEC))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), SPLIT.targets)


def test_inputs_and_targets_belong_to_the_indices():
    for batch in Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=3):
        assert torch.equal(batch.inputs, tensors(SPLIT, SPEC, indices=batch.indices))
        assert torch.equal(batch.targets, SPLIT.targets[batch.indices])


def test_soft_targets_are_handed_out_when_asked_for():
    for batch in Loader(SPLIT, SPEC, batch_size=5, shuffle=True, soft_targets=True):
        assert torch.equal(batch.targets, SPLIT.soft_targets[batch.indices])


def test_the_order_is_a_function_of_seed_and_epoch():
    loader = Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=1)
    first, second = epoch(loader), epoch(loader)
    assert not same(first, second)
    again = Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=1)
    again.set_epoch(1)
    assert same(epoch(again), second)
    other = Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=2)
    assert not same(epoch(other), first)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(Loader(SPLIT, SPEC, batch_size=5, shuffle=True, augment=random_light))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["in memory", "decoded per batch"])
@pytest.mark.parametrize("stop", range(6))
def test_a_restored_loader_goes_on_where_the_other_stopped(stop, cache_bytes):
    def make() -> Loader:
        return Loader(
            SPLIT, SPEC, batch_size=5, shuffle=True, seed=7, augment=random_mirror, cache_bytes=cache_bytes
        )

    whole = make()
    expected = epoch(whole) + epoch(whole)
    stopped = make()
    iterator = iter(stopped)
    done = [next(iterator) for _ in range(stop)]
    state = stopped.state_dict()
    restored = make()
    restored.load_state_dict(state)
    restored.set_epoch(0)
    rest = epoch(restored) + epoch(restored)
    assert len(done) + len(rest) == len(expected)
    assert same(rest, expected[stop:])


def test_decoding_per_batch_gives_the_same_batches():
    options = {"batch_size": 4, "shuffle": True, "augment": random_mirror}
    assert same(epoch(Loader(SPLIT, SPEC, **options)), epoch(Loader(SPLIT, SPEC, **options, cache_bytes=0)))


def test_leaving_an_iteration_early_starts_the_same_epoch_again():
    loader = Loader(SPLIT, SPEC, batch_size=5, shuffle=True)
    first = next(iter(loader))
    assert torch.equal(next(iter(loader)).indices, first.indices)
    assert len(epoch(loader)) == 5


def test_augmentation_sees_uint8_channels_last_and_its_own_generator_per_batch():
    seen = []

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        seen.append((images.dtype, channels_last, torch.rand(1, generator=generator).item()))
        return images

    list(Loader(SPLIT, SPEC, batch_size=5, shuffle=False, augment=augment))
    assert {(dtype, layout) for dtype, layout, _ in seen} == {(torch.uint8, True)}
    assert len({number for _, _, number in seen}) == 5


def test_another_seeds_position_is_refused():
    state = Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=1).state_dict()
    with pytest.raises(ValueError, match="seed 1, this loader 2"):
        Loader(SPLIT, SPEC, batch_size=5, shuffle=True, seed=2).load_state_dict(state)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        Loader(SPLIT, SPEC, batch_size=0, shuffle=False)
    plain = Split(SPLIT.images, SPLIT.targets, SPLIT.names)
    with pytest.raises(ValueError, match="no soft targets"):
        Loader(plain, SPEC, batch_size=1, shuffle=False, soft_targets=True)


def test_a_restored_position_counts_once():
    loader = Loader(SPLIT, SPEC, batch_size=5, shuffle=True)
    loader.load_state_dict({"seed": 0, "epoch": 0, "position": 3})
    next(iter(loader))
    assert len(epoch(loader)) == 5
