"""The Cross-Modal Adapter: exact starts, counts and gradients, on the small encoder and on real classes."""

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from tests.contracts.cases import TransformCase
from tests.nn.dual_encoder.test_clip import no_tokenizer, open_clip_model, tokens, transformers_model
from torchard.nn.dual_encoder import TinyClip, tiny_clip, wrap
from torchard.tune import AdapterMismatchError, NotMergeableError
from torchard.tune import cross_modal_adapter as cma
from torchard.tune.adapters.state import containers

CAPTIONS = ["a video of the seven", "the one in the top", "a thick digit"]


def encoder() -> TinyClip:
    return tiny_clip(pretrained=False, seed=3)


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def outputs(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_image(images()), model.encode_text(model.tokenize(CAPTIONS))


def owner_of(model: nn.Module, name: str = "default") -> Any:
    return containers(model)[""][name]


class WithCaptions(TinyClip):
    """Images in, similarities with fixed captions out."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images, self.tokenize(CAPTIONS))


def with_captions() -> WithCaptions:
    torch.manual_seed(3)
    return WithCaptions().eval()


def contract_case() -> TransformCase:
    return TransformCase(
        build=with_captions, inputs=images(), apply=cma.attach, undo=cma.detach, save=cma.save, load=cma.load
    )


@torch.no_grad()
@pytest.mark.parametrize("shared", [0, 16, 64])
def test_a_zero_start_is_the_frozen_encoder_bit_for_bit(shared):
    model = encoder()
    expected = outputs(model)
    cma.attach(model, init="zero_up", shared_dim=shared)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), expected, strict=True))
    normal = cma.attach(encoder(), shared_dim=shared)
    for found, before in zip(outputs(normal), expected, strict=True):
        assert not torch.equal(found, before)
        assert F.cosine_similarity(found, before).min() > 0.99  # near, not at
    with cma.disabled(normal):
        assert all(torch.equal(a, b) for a, b in zip(outputs(normal), expected, strict=True))


@torch.no_grad()
def test_the_bottleneck_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    down, down_b, own, own_b, common, common_b, x = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 5), (2,), (3, 2), (3,), (2, 2), (2,), (4, 6, 5))
    )
    inner = x @ down.T + down_b
    inner = inner / (1 + torch.exp(-1.702 * inner))
    expected = x.clone()
    expected[..., :3] += inner @ own.T + own_b
    expected[..., 3:] += inner @ common.T + common_b  # the shared part writes the last channels
    torch.testing.assert_close(cma.adapter(x, down, down_b, own, own_b, common, common_b), expected)
    half = cma.adapter(x.bfloat16(), *(t.float() for t in (down, down_b, own, own_b, common, common_b)))
    assert half.dtype == torch.bfloat16


def count(depth: int, widths: tuple[int, int], rank: int, shared: int) -> int:
    own = sum(rank * d + rank + (d - shared) * (rank + 1) for d in widths)
    return 2 * depth * (own + shared * (rank + 1))


@pytest.mark.parametrize(("shared", "expected"), [(16, 519_168), (0, 522_624)])
def test_numbers_on_vit_b_32_are_the_published_ones(shared, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_clip = pytest.importorskip("open_clip")
        with torch.device("meta"):
            model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    with torch.device("meta"):
        adapted = cma.attach(wrap(model, no_tokenizer), shared_dim=shared)
    found = cma.summary(adapted)
    assert found.adapter_params == expected == count(12, (768, 512), 8, shared)
    assert found.adapter_params / (found.total - found.adapter_params) < 0.0035  # of 151 M


def test_numbers_on_the_small_encoder_are_those_of_the_formula():
    assert cma.summary(cma.attach(encoder())).adapter_params == count(3, (64, 64), 8, 16) == 12_288
    assert cma.summary(cma.attach(encoder(), shared_dim=0)).adapter_params == 13_152
    some = cma.attach(encoder(), layers=[(0, 2)], bottleneck=3)
    assert cma.summary(some).adapter_params == count(1, (64, 64), 3, 16)
    assert cma.summary(some).sites == (
        "visual.blocks.0.attn",
        "visual.blocks.0.mlp.2",
        "text.blocks.2.attn",
        "text.blocks.2.mlp.2",
    )


REAL: dict[str, Callable[[], nn.Module]] = {"open_clip": open_clip_model, "transformers": transformers_model}


@torch.no_grad()
@pytest.mark.parametrize("kind", REAL)
def test_every_site_of_a_real_model_acts_and_towers_may_differ_in_width(kind):
    model = wrap(REAL[kind](), no_tokenizer)
    pixels, ids = torch.randn(2, 3, 32, 32), tokens(49 if kind == "open_clip" else 48)
    before = model.encode_image(pixels), model.encode_text(ids)
    cma.attach(model, init="zero_up")
    owner = owner_of(model)
    # Not bit for bit here: an attention with something attached leaves torch's fast path.
    torch.testing.assert_close(model.encode_image(pixels), before[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.encode_text(ids), before[1], rtol=1e-5, atol=1e-5)
    for tower, found in (("image", before[0]), ("text", before[1])):
        for place, own in enumerate(getattr(owner, tower)):
            own.unique_bias.fill_(0.5)
            now = model.encode_image(pixels) if tower == "image" else model.encode_text(ids)
            assert not torch.allclose(now, found), (tower, place)
            own.unique_bias.zero_()


@torch.no_grad()
def test_what_is_shared_moves_both_towers_and_what_is_own_moves_one():
    model = cma.attach(encoder())
    owner, before = owner_of(model), outputs(model)

    def moved(weight: torch.Tensor) -> tuple[bool, bool]:
        kept = weight.clone()
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        found = outputs(model)
        weight.copy_(kept)
        return not torch.equal(found[0], before[0]), not torch.equal(found[1], before[1])

    assert moved(owner.common[0].shared_weight) == (True, True)
    assert moved(owner.image[0].unique_weight) == (True, False)
    assert moved(owner.text[3].down_weight) == (False, True)


def test_the_gradient_of_what_is_shared_is_the_sum_over_the_towers():
    """Against two encoders that share nothing with each other: one gives the images, the other the texts."""
    torch.manual_seed(0)
    both = cma.attach(encoder().double(), init_std=0.1)
    halves = copy.deepcopy(both), copy.deepcopy(both)
    left, right = outputs_double(both)
    (left @ right.T).square().sum().backward()
    left, right = outputs_double(halves[0])[0], outputs_double(halves[1])[1]
    (left @ right.T).square().sum().backward()
    for place, common in enumerate(owner_of(both).common):
        parts = [owner_of(half).common[place].shared_weight.grad for half in halves]
        assert all(part.abs().max() > 0 for part in parts)
        torch.testing.assert_close(common.shared_weight.grad, sum(parts), rtol=1e-9, atol=1e-12)


def outputs_double(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_image(images().double()), model.encode_text(model.tokenize(CAPTIONS))


def test_training_moves_every_adapter_and_nothing_else():
    model = encoder()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cma.attach(model)
    groups = cma.parameter_groups(model, lr=1e-2, weight_decay=0.2)
    assert {group["weight_decay"] for group in groups} == {0.2, 0.0}
    optimizer = torch.optim.AdamW(groups)
    start = {key: value.detach().clone() for key, value in cma.trainable_parameters(model).items()}
    similarity = model(images(3), model.tokenize(CAPTIONS))
    cma.retrieval_loss(similarity).backward()
    optimizer.step()
    trained = cma.trainable_parameters(model)
    assert all(parameter.grad is not None for parameter in trained.values())
    assert all(not torch.equal(parameter, start[key]) for key, parameter in trained.items())
    assert not model.log_scale.requires_grad
    cma.detach(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_a_file_holds_the_shared_part_once_and_gives_the_same_similarity(tmp_path):
    model = cma.attach(encoder())
    cma.save(model, tmp_path)
    stored = load_file(tmp_path / "adapter.safetensors")
    assert sum(value.numel() for value in stored.values()) == 12_288
    assert sum("shared_weight" in key for key in stored) == 6
    assert (tmp_path / "adapter.safetensors").stat().st_size <= 4 * 12_288 + 16 * 1024
    fresh = cma.load(encoder(), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(outputs(fresh), outputs(model), strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shared_dim": 65}, "shared_dim=65"),
        ({"bottleneck": 10**9}, "bottleneck"),
        ({"layers": [[0, 7], [1, 1], [2, 2]]}, "blocks"),
        ({"layers": [["a", 0]]}, "layers"),
        ({"activation": "sine"}, "activation"),
    ],
    ids=str,
)
def test_a_file_with_impossible_settings_is_refused_and_nothing_changes(tmp_path, change, said):
    cma.save(cma.attach(encoder()), tmp_path)
    stored = json.loads((tmp_path / "adapter.json").read_text())
    stored["config"] |= change
    rewrite(tmp_path, stored)
    model = encoder()
    with pytest.raises(AdapterMismatchError, match=said):
        cma.load(model, tmp_path)
    assert not containers(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_file_with_an_impossible_place_is_refused(tmp_path):
    cma.save(cma.attach(encoder()), tmp_path)
    stored = json.loads((tmp_path / "adapter.json").read_text())
    stored["sites"]["visual.blocks.0.attn"][0] = "image 99"
    rewrite(tmp_path, stored)
    with pytest.raises(AdapterMismatchError, match="no place"):
        cma.load(encoder(), tmp_path)


def rewrite(folder: Any, description: Any) -> None:
    from torchard.core.checkpoint import load_tensors, save_tensors
    from torchard.tune.adapters.files import _digest

    (folder / "adapter.json").write_text(json.dumps(description))
    tensors, _ = load_tensors(folder / "adapter.safetensors")
    save_tensors(folder / "adapter.safetensors", tensors, {"description": _digest(description)})


@torch.no_grad()
def test_a_copy_has_adapters_of_its_own_and_two_sets_take_turns():
    model = cma.attach(encoder())
    expected = outputs(model)
    twin = copy.deepcopy(model)
    owner_of(twin).common[0].shared_weight.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), expected, strict=True))
    assert not torch.equal(outputs(twin)[0], expected[0])
    cma.attach(model, name="other", shared_dim=0)
    assert not torch.equal(outputs(model)[0], expected[0])
    cma.activate(model, "default")
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), expected, strict=True))


def test_merging_is_refused_with_the_reason():
    with pytest.raises(NotMergeableError, match="not an affine map"):
        cma.merge(cma.attach(encoder()))


def test_dropout_acts_in_training_alone():
    model = cma.attach(encoder(), dropout=0.5, init_std=0.5)
    with torch.no_grad():
        assert torch.equal(model.eval().encode_image(images()), model.encode_image(images()))
        model.train()
        assert not torch.equal(model.encode_image(images()), model.encode_image(images()))


def test_bad_settings_are_refused_and_nothing_changes():
    model = encoder()
    for options, said in (
        ({"shared_dim": 65}, "shared_dim=65"),
        ({"shared_dim": -1}, "shared_dim=-1"),
        ({"bottleneck": 0}, "bottleneck=0"),
        ({"layers": [(0, 3)]}, "text tower"),
        ({"layers": [(0, 0), (0, 1)]}, "image tower"),
        ({"layers": []}, "one pair at least"),
        ({"layers": [(0,)]}, "must be pairs"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            cma.attach(model, **options)
    assert not containers(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.text.blocks = model.text.blocks[:2]
    uneven = Shortened(model)
    with pytest.raises(ValueError, match=r"3 blocks and the text tower 2.*layers="):
        cma.attach(uneven)
    cma.attach(uneven, layers=[(0, 0), (2, 1)])
    with pytest.raises(ValueError, match="attached already"):
        cma.attach(uneven, layers=[(0, 0)])


class Shortened(nn.Module):
    """An encoder whose text tower lost its last block."""

    def __init__(self, model: TinyClip) -> None:
        super().__init__()
        self.model = model

    def blocks(self, tower: Any) -> list[Any]:
        found = self.model.blocks(tower)[: 3 if tower == "image" else 2]
        return [type(b)(f"model.{b.attention}", f"model.{b.mlp}", b.width) for b in found]


def two_processes(rank: int, folder: str) -> None:
    """Half the batch each, gathered; the averaged gradients must be those of one process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    model, (pixels, ids) = pair_batch()
    half = slice(2 * rank, 2 * rank + 2)
    left = cma.gathered(model.encode_image(pixels[half], normalize=True))
    right = cma.gathered(model.encode_text(ids[half], normalize=True))
    cma.retrieval_loss(10 * right @ left.T).backward()
    found = {}
    for key, parameter in cma.trainable_parameters(model).items():
        torch.distributed.all_reduce(parameter.grad)
        found[key] = parameter.grad / 2
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def pair_batch() -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = cma.attach(tiny_clip(pretrained=False, seed=3).double(), init_std=0.1)
    return model, (images(4).double(), model.tokenize([*CAPTIONS, "the zero"]))


def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(two_processes, (str(tmp_path),), nprocs=2)
    model, (pixels, ids) = pair_batch()
    similarity = 10 * model.encode_text(ids, normalize=True) @ model.encode_image(pixels, normalize=True).T
    cma.retrieval_loss(similarity).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for key, parameter in cma.trainable_parameters(model).items():
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-9, atol=1e-12)
