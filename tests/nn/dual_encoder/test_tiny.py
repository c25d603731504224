"""The small encoder: its words, its shapes, its reading of the end mark."""

import pytest
import torch

from torchard.nn.dual_encoder import TinyClip, tiny_clip


def test_it_has_the_announced_size():
    assert sum(p.numel() for p in TinyClip().parameters()) == 316_417


@torch.no_grad()
def test_features_and_scores_have_their_shapes():
    model = tiny_clip(pretrained=False)
    images, tokens = torch.randn(3, 1, 28, 28), model.tokenize(["a photo of the seven", "the thin digit"])
    assert tokens.shape == (2, model.context_length)
    assert model.encode_image(images).shape == (3, model.embed_dim)
    assert model(images, tokens).shape == (3, 2)
    assert not torch.allclose(model.encode_image(images).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(model.encode_text(tokens, normalize=True).norm(dim=1), torch.ones(2))
    direct = model.encode_text_embeddings(model.embed_tokens(tokens), tokens)
    assert torch.equal(direct, model.encode_text(tokens))


@torch.no_grad()
def test_text_after_the_end_mark_has_no_influence():
    model = tiny_clip(pretrained=False)
    tokens = model.tokenize(["a photo of the seven", "the thin digit"])
    after = tokens.clone()
    after[1, 5:] = 9
    torch.testing.assert_close(model.encode_text(after), model.encode_text(tokens), rtol=1e-6, atol=1e-6)
    before = tokens.clone()
    before[1, 2] = 9
    assert not torch.allclose(model.encode_text(before)[1], model.encode_text(tokens)[1], atol=1e-5)


def test_unknown_words_and_long_texts_are_refused():
    model = TinyClip()
    with pytest.raises(ValueError, match=r"'cat' is not in the vocabulary: zero, one, .*thick"):
        model.tokenize(["a photo of the cat"])
    with pytest.raises(ValueError, match="vocabulary"):
        model.tokenize(["<eot>"])
    with pytest.raises(ValueError, match="11 words; at most 10 fit"):
        model.tokenize(["a " * 11])


def test_the_scale_is_held_below_a_hundred():
    model = TinyClip()
    model.log_scale.data.fill_(9.0)
    assert model.logit_scale.item() == pytest.approx(100)


def test_random_weights_follow_the_seed():
    first, same, other = (tiny_clip(pretrained=False, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["text.embedding.weight"], other["text.embedding.weight"])
