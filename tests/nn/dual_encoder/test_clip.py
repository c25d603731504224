"""Real classes of open_clip and transformers, small and with random weights, behind the one interface."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchard.nn.dual_encoder import DualEncoder, Preprocessing, TinyClip, hugging_face_tokens, wrap


def no_tokenizer(texts: list[str]) -> torch.Tensor:
    raise NotImplementedError


def open_clip_model(**text: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that open_clip imports
        open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        text_cfg={"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2, **text},
    ).eval()


def transformers_model(end: int = 48) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = {"vocab_size": 50, "hidden_size": 32, "max_position_embeddings": 9, "eos_token_id": end, **layers}
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 64, **layers}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return transformers.CLIPModel(config).eval()


def tokens(end: int) -> torch.Tensor:
    rows = [[1, 5, 7, end], [1, 9, end], [1, 5, 6, 8, 11, end]]
    return torch.tensor([[*row, *[0] * (9 - len(row))] for row in rows])


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "open_clip": (open_clip_model, 49),
    "open_clip, own end mark": (lambda: open_clip_model(pool_type="eos", eos_id=40), 40),
    "open_clip, linear projection": (lambda: open_clip_model(proj_bias=True), 49),
    "transformers": (transformers_model, 48),
    "transformers, old checkpoints": (lambda: transformers_model(end=2), 49),
}


def library_text_features(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    if hasattr(model, "text_model"):
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return model.encode_text(ids)


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_features_are_those_of_the_library(kind):
    make, end = MODELS[kind]
    model = make()
    encoder = wrap(model, no_tokenizer)
    assert isinstance(encoder, DualEncoder)
    ids, images = tokens(end), torch.randn(2, 3, 32, 32)
    expected = library_text_features(model, ids)
    torch.testing.assert_close(encoder.encode_text(ids), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        encoder.encode_text_embeddings(encoder.embed_tokens(ids), ids), expected, rtol=1e-5, atol=1e-5
    )
    states = encoder.text_states(encoder.embed_tokens(ids), ids)
    if kind != "open_clip, linear projection":  # which has a bias besides
        torch.testing.assert_close(states @ encoder.text_projection(), expected, rtol=1e-5, atol=1e-5)
    unit = encoder.encode_text(ids, normalize=True)
    torch.testing.assert_close(unit, nn.functional.normalize(expected), rtol=1e-5, atol=1e-5)
    vision = encoder.encode_image(images)
    assert vision.shape == (2, encoder.embed_dim) == (2, 16)
    assert (encoder.image_size, encoder.context_length) == (32, 9)
    torch.testing.assert_close(encoder.logit_scale, torch.tensor(1 / 0.07), rtol=1e-2, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_what_comes_after_the_end_mark_has_no_influence(kind):
    make, end = MODELS[kind]
    encoder, ids = wrap(make(), no_tokenizer), tokens(end)
    other = ids.clone()
    other[1, 4:] = 3
    torch.testing.assert_close(encoder.encode_text(other), encoder.encode_text(ids), rtol=1e-6, atol=1e-6)
    other[1, 1] = 3
    assert not torch.allclose(encoder.encode_text(other), encoder.encode_text(ids), atol=1e-4)


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_blocks_name_attention_and_mlp_in_order_with_their_width(kind):
    encoder = wrap(MODELS[kind][0](), no_tokenizer)
    for tower, width in (("image", 64), ("text", 32)):
        blocks = encoder.blocks(tower)
        assert [block.width for block in blocks] == [width, width]
        seen: list[str] = []
        handles = [
            encoder.get_submodule(path).register_forward_hook(
                lambda *_, path=path, seen=seen: seen.append(path)
            )
            for block in blocks
            for path in (block.attention, block.mlp)
        ]
        with torch.no_grad():
            if tower == "image":
                encoder.encode_image(torch.randn(1, 3, 32, 32))
            else:
                encoder.encode_text(tokens(MODELS[kind][1]))
        for handle in handles:
            handle.remove()
        assert seen == [path for block in blocks for path in (block.attention, block.mlp)]


def test_preprocessing_resizes_cuts_and_normalises_with_gradients():
    encoder = wrap(open_clip_model(), no_tokenizer, Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    images = torch.rand(2, 3, 48, 80, requires_grad=True)
    found = encoder.preprocess(images)
    assert found.shape == (2, 3, 32, 32)
    encoder.encode_image(found).sum().backward()
    assert images.grad.any()
    flat = encoder.preprocess(torch.full((1, 1, 40, 40), 0.5))
    torch.testing.assert_close(
        flat[0, :, 7, 7], (0.5 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    )
    exact = torch.rand(1, 3, 32, 32)
    expected = (exact - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[
        :, None, None
    ]
    torch.testing.assert_close(encoder.preprocess(exact), expected)


def test_a_tokenizer_of_transformers_pads_to_its_full_length():
    def tokenizer(texts: list[str], **options: object) -> dict[str, torch.Tensor]:
        assert options == {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return {"input_ids": torch.zeros(len(texts), 9, dtype=torch.long)}

    encoder = wrap(transformers_model(), hugging_face_tokens(tokenizer))
    assert encoder.tokenize(["a", "b"]).shape == (2, 9)


def test_other_models_and_towers_are_refused():
    with pytest.raises(ValueError, match="neither a CLIP of open_clip"):
        wrap(nn.Linear(2, 2), no_tokenizer)
    convolutional = open_clip_model()
    convolutional.visual.transformer = None
    with pytest.raises(ValueError, match="image tower is a VisionTransformer, which has no blocks"):
        wrap(convolutional, no_tokenizer).blocks("image")


def test_the_small_encoder_is_a_dual_encoder():
    assert isinstance(TinyClip(), DualEncoder)
