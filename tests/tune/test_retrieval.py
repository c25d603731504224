"""Similarity, ranks and search against their definitions, and the limits of what frames can tell."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.retrieval import retrieval_hit_rate

from torchard.nn.dual_encoder import tiny_clip
from torchard.tune.retrieval import (
    VideoIndex,
    encode_frames,
    encode_videos,
    frame_mask,
    gathered,
    retrieval_loss,
    retrieval_metrics,
    search,
    text_video_similarity,
)


def features(n: int = 3, m: int = 4, f: int = 5, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, d, generator=generator, dtype=torch.float64),
        torch.randn(m, f, d, generator=generator, dtype=torch.float64),
    )


LENGTHS = torch.tensor([5, 1, 3, 2])


def test_similarity_is_its_definition_pair_by_pair():
    text, frames = features()
    mask = frame_mask(LENGTHS, 5)
    found = text_video_similarity(text, frames, mask, logit_scale=3.0, temperature=2.0)
    for i, query in enumerate(text):
        for j, length in enumerate(LENGTHS):
            own = frames[j, :length]
            video = (own @ query / 2).softmax(dim=0) @ own
            assert found[i, j].item() == pytest.approx(3 * F.cosine_similarity(query, video, dim=0).item())


@pytest.mark.parametrize("pooling", ["text", "mean"])
def test_order_of_frames_and_what_is_masked_do_not_matter(pooling):
    text, frames = features()
    mask = frame_mask(LENGTHS, 5)
    found = text_video_similarity(text, frames, mask, pooling=pooling)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    shuffled = text_video_similarity(text, frames[:, order], mask[:, order], pooling=pooling)
    torch.testing.assert_close(shuffled, found)
    noise = frames.masked_fill(~mask[..., None], float("nan"))  # of padding anything may be left over
    torch.testing.assert_close(
        text_video_similarity(text, noise, mask, pooling=pooling), found, rtol=0, atol=0
    )


def test_masked_frames_get_no_gradient():
    text, frames = features()
    frames.requires_grad_()
    mask = frame_mask(LENGTHS, 5)
    text_video_similarity(text, frames, mask).square().sum().backward()
    assert frames.grad[~mask].abs().max() == 0
    assert frames.grad[mask].abs().min() > 0


def test_a_hot_temperature_is_the_mean_and_like_frames_pool_alike():
    text, frames = features()
    mask = frame_mask(LENGTHS, 5)
    mean = text_video_similarity(text, frames, mask, pooling="mean")
    torch.testing.assert_close(text_video_similarity(text, frames, mask, temperature=1e12), mean)
    same = frames[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(
        text_video_similarity(text, same), text_video_similarity(text, same, pooling="mean")
    )
    assert not torch.allclose(text_video_similarity(text, frames, mask, temperature=0.5), mean)


def test_left_and_right_cannot_be_told_apart():
    """A video and the same played backwards have equal features: order in time is beyond this head."""
    encoder = tiny_clip(pretrained=False)
    videos = torch.randn(2, 4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        forwards, backwards = encode_frames(encoder, videos), encode_frames(encoder, videos.flip(1))
    for pooling in ("text", "mean"):
        torch.testing.assert_close(
            text_video_similarity(text, forwards, pooling=pooling),
            text_video_similarity(text, backwards, pooling=pooling),
        )


def test_videos_without_frames_and_odd_settings_are_refused():
    text, frames = features()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"no frame of the videos \[2\]"):
        text_video_similarity(text, frames, mask)
    with pytest.raises(ValueError, match="temperature"):
        text_video_similarity(text, frames, temperature=0.0)
    with pytest.raises(ValueError, match="max_frames=5"):
        frame_mask(torch.tensor([1, 0]), 5)
    assert frame_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]


def test_loss_ends():
    assert retrieval_loss(1e4 * torch.eye(5)).item() == pytest.approx(0)
    assert retrieval_loss(torch.full((5, 5), 3.0)).item() == pytest.approx(math.log(5))
    # two captions alike: half of each target; then no more than ln 2 is left to a perfect matrix
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert retrieval_loss(1e4 * positives.float(), positives).item() == pytest.approx(2 / 3 * math.log(2))
    with pytest.raises(ValueError, match="square"):
        retrieval_loss(torch.zeros(2, 3))


def test_ranks_of_a_permutation_and_of_ties():
    order = torch.tensor([3, 1, 4, 0, 2])
    perfect = torch.eye(5)[order]
    found = retrieval_metrics(perfect, order)
    assert (
        found["text_to_video"]
        == found["video_to_text"]
        == {**{f"R{k}": 100 for k in (1, 5, 10)}, "MedR": 1, "MeanR": 1}
    )
    level = retrieval_metrics(torch.zeros(5, 5))  # all tied: in the middle
    assert level["text_to_video"]["MeanR"] == 3
    assert level["text_to_video"]["R1"] == 0
    worst = retrieval_metrics(-torch.eye(5))
    assert worst["video_to_text"]["MedR"] == 5


def test_several_texts_of_a_video_are_all_right_and_the_best_counts():
    similarity = torch.tensor([[0.9, 0.1], [0.1, 0.2], [0.8, 0.7]])
    found = retrieval_metrics(similarity, torch.tensor([0, 0, 1]))
    assert found["text_to_video"]["MeanR"] == pytest.approx((1 + 2 + 2) / 3)
    assert found["video_to_text"]["MeanR"] == pytest.approx(1)
    untold = retrieval_metrics(similarity, torch.tensor([0, 0, 0]))
    assert untold["video_to_text"]["MeanR"] == 1  # the second video has no text and is left out


def test_recall_is_that_of_torchmetrics():
    similarity = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    found = retrieval_metrics(similarity)
    for direction, matrix in (("text_to_video", similarity), ("video_to_text", similarity.T)):
        for k in (1, 5, 10):
            hits = [retrieval_hit_rate(row, torch.arange(30) == i, top_k=k) for i, row in enumerate(matrix)]
            assert found[direction][f"R{k}"] == pytest.approx(100 * torch.stack(hits).mean().item(), rel=1e-5)


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match="square"):
        retrieval_metrics(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="name a video"):
        retrieval_metrics(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="NaN"):
        retrieval_metrics(torch.full((2, 2), float("nan")))


@pytest.mark.parametrize("pooling", ["text", "mean"])
def test_search_finds_what_the_matrix_says(pooling):
    encoder = tiny_clip(pretrained=False)
    videos = torch.randn(7, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    mask = frame_mask(torch.tensor([3, 2, 1, 3, 3, 1, 2]), 3)
    batches = [(videos[:4], mask[:4]), (videos[4:], mask[4:])]
    index = encode_videos(encoder, batches, pooling=pooling)
    queries = torch.randn(70, 64, generator=torch.Generator().manual_seed(1))  # more than are done at once
    with torch.no_grad():
        frames = encode_frames(encoder, videos)
    expected = text_video_similarity(queries, frames, mask, pooling=pooling).topk(2, dim=1)
    scores, places = search(index, queries, k=2)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(places, expected.indices)
    assert index.frames.shape[1] == (3 if pooling == "text" else 1)
    whole = encode_videos(encoder, [videos])
    assert isinstance(whole, VideoIndex)
    assert bool(whole.mask.all())


def test_bad_searches_are_refused():
    encoder = tiny_clip(pretrained=False)
    with pytest.raises(ValueError, match="empty"):
        encode_videos(encoder, [])
    with pytest.raises(ValueError, match="unequally many"):
        encode_videos(encoder, [torch.zeros(1, 2, 1, 28, 28), torch.zeros(1, 3, 1, 28, 28)])
    index = encode_videos(encoder, [torch.zeros(2, 2, 1, 28, 28)])
    with pytest.raises(ValueError, match="k=3"):
        search(index, torch.zeros(1, 64), k=3)


def test_without_a_process_group_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert gathered(rows) is rows
