"""Both stages in one call."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.prune.uvc.models import answers, images, small_vit
from torchard.core.budget import count_macs
from torchard.prune.uvc import Distillation, Rates, Search, compress, load_compressed

INPUTS, TARGETS = images(12, seed=3), torch.arange(12) % 3
SEARCH = Search(warmup_epochs=1)


def loader(**changes) -> DataLoader:
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, shuffle=True, **changes)


def test_what_comes_back_meets_the_budget_and_can_be_kept(tmp_path):
    model = small_vit()
    before = count_macs(model, images(1))
    found = compress(model, loader(), loader(), 0.5, epochs=(3, 2), search=SEARCH, learning_rate=1e-3)
    assert count_macs(found.model, images(1)) == found.macs[1] <= 0.5 * before == 0.5 * found.macs[0]
    assert [len(found.history[stage]) for stage in ("search", "post")] == [3, 2]
    assert 0 <= found.history["post"][-1]["accuracy"] <= 1
    assert f"{100 * found.macs[1] / found.macs[0]:.1f} %" in str(found)
    found.save(tmp_path / "small.safetensors")
    assert torch.equal(
        answers(load_compressed(tmp_path / "small.safetensors", small_vit())), answers(found.model)
    )


def test_a_run_folder_gives_the_same_again_without_training(tmp_path):
    def run():
        return compress(small_vit(), loader(), epochs=(2, 1), search=SEARCH, folder=tmp_path / "run", seed=3)

    first, second = run(), run()
    assert first.decision == second.decision
    assert torch.equal(answers(first.model), answers(second.model))


def test_batches_are_mixed_in_both_stages():
    sizes = []

    def mix(inputs, targets):
        sizes.append(len(inputs))
        return inputs, torch.nn.functional.one_hot(targets, 3).float()

    compress(
        small_vit(), loader(), epochs=(2, 1), search=SEARCH, mix=mix, distillation=Distillation(alpha=0.5)
    )
    assert len(sizes) == 9


def test_a_search_that_is_all_warm_up_is_refused():
    with pytest.raises(ValueError, match="warm-up"):
        compress(small_vit(), loader(), epochs=(5, 1))


def test_rates_fit_the_steps_there_are():
    rates = Rates.over(500)
    assert 50 * rates.units == pytest.approx(1)
    assert rates.gate_interval == 1
    assert Rates.over(75_000).gate_interval == Rates().gate_interval
