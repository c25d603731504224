"""Find videos (or images) by text: similarity of a text with frames, the loss to train it, ranks, search."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from torchard.nn.dual_encoder import DualEncoder, contrastive_loss

Pooling = Literal["text", "mean"]
QUERIES_AT_ONCE = 64


def text_video_similarity(
    text: Float[Tensor, "n d"],
    frames: Float[Tensor, "m f d"],
    mask: Bool[Tensor, "m f"] | None = None,
    *,
    logit_scale: float | Float[Tensor, ""] = 1.0,
    pooling: Pooling = "text",
    temperature: float = 5.0,
) -> Float[Tensor, "n m"]:
    """Return ``logit_scale`` times the cosine of every text with every video, from raw features.

    A video is one vector pooled from its frames: with ``"text"`` the frames are weighed by the softmax of
    their products with the text over ``temperature``, so that each text sees a video of its own; with
    ``"mean"`` all weigh the same. ``mask`` is False where a frame is only padding. The order of frames does
    not matter to either. O(n m (f + d)) memory.

    Raises:
        ValueError: if a video has no valid frame, or ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature={temperature}` must be positive.")
    mask = frames.new_ones(frames.shape[:2], dtype=torch.bool) if mask is None else mask
    _check_frames(mask)
    if pooling == "mean":
        videos = _masked_mean(frames, mask)
        return logit_scale * F.normalize(text, dim=-1) @ F.normalize(videos, dim=-1).T
    products = einsum(text, frames, "n d, m f d -> n m f") / temperature
    weights = products.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    seen = einsum(weights, frames.masked_fill(~mask[..., None], 0.0), "n m f, m f d -> n m d")
    return logit_scale * einsum(F.normalize(text, dim=-1), F.normalize(seen, dim=-1), "n d, n m d -> n m")


def frame_mask(lengths: Int[Tensor, " m"], max_frames: int) -> Bool[Tensor, "m f"]:
    """Return True for the first ``lengths`` frames of each video and False for the padding after them.

    Raises:
        ValueError: if a length is not between 1 and ``max_frames``.
    """
    if not bool(((lengths >= 1) & (lengths <= max_frames)).all()):
        raise ValueError(f"`lengths={lengths.tolist()}` must lie between 1 and `max_frames={max_frames}`.")
    return torch.arange(max_frames, device=lengths.device) < lengths[:, None]


def retrieval_loss(
    similarity: Float[Tensor, "n m"], positives: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean of the cross entropies of texts over videos and of videos over texts.

    :func:`torchard.nn.dual_encoder.contrastive_loss` under the name of its task: the diagonal matches, or
    whatever ``positives`` marks, such as captions that occur twice. On several devices, gather the features
    by :func:`gathered` first and compute the whole matrix on each.

    Raises:
        ValueError: if the matrix is not square and ``positives`` is missing, or a row or column has no match.
    """
    return contrastive_loss(similarity, positives)


def gathered(features: Float[Tensor, "b ..."]) -> Float[Tensor, "b2 ..."]:
    """Return the features of all processes, one after another, with gradients that reach all of them.

    A gather that hands gradients to its own slice only leaves 1/processes of the gradient after averaging,
    which clipping notices. Without a process group the features come back as they are.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return features
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(features))


def retrieval_metrics(
    similarity: Float[Tensor, "n m"], targets: Int[Tensor, " n"] | None = None
) -> dict[str, dict[str, float]]:
    """Return recall at 1, 5 and 10 in percent, median and mean rank, from text to video and back.

    ``targets`` names each text's video; without it text i belongs to video i. Rank 1 is best; a tie counts
    half. From video to text all texts of the video are right and the best placed one counts; videos without a
    text are left out.

    Raises:
        ValueError: if the matrix holds NaN, or is not square and ``targets`` is missing, or these do not fit.
    """
    texts, videos = similarity.shape
    if targets is None and texts != videos:
        raise ValueError(
            f"`similarity` is {texts} by {videos}; without `targets` it must be square, text i belonging to "
            "video i."
        )
    targets = torch.arange(texts, device=similarity.device) if targets is None else targets
    _check_targets(similarity, targets)
    right = targets[:, None] == torch.arange(videos, device=similarity.device)
    return {
        "text_to_video": _summary(_best_ranks(similarity, right)),
        "video_to_text": _summary(_best_ranks(similarity.T, right.T)),
    }


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frame features of videos, to be searched; kept by frame, since ``"text"`` pooling needs the query."""

    frames: Float[Tensor, "m f d"]
    mask: Bool[Tensor, "m f"]
    pooling: Pooling = "text"
    temperature: float = 5.0


@torch.no_grad()
def encode_videos(
    encoder: DualEncoder, loader: Iterable[Any], *, pooling: Pooling = "text", temperature: float = 5.0
) -> VideoIndex:
    """Return the features of every frame that ``loader`` yields, as batches (b, f, c, h, w) or with a mask.

    Frames go through the image tower one by one. With ``pooling="mean"`` each video is kept as one vector.

    Raises:
        ValueError: if the loader is empty, or videos of different batches have unequally many frames.
    """
    frames, masks = [], []
    for batch in loader:
        videos, mask = batch if isinstance(batch, tuple | list) else (batch, None)
        found = encode_frames(encoder, videos)
        mask = torch.ones(found.shape[:2], dtype=torch.bool) if mask is None else mask
        _check_frames(mask)
        if pooling == "mean":
            found, mask = _masked_mean(found, mask)[:, None], mask.new_ones(len(mask), 1)
        frames.append(found)
        masks.append(mask)
    if len({found.shape[1] for found in frames}) != 1:
        raise ValueError(
            "`loader` is empty."
            if not frames
            else "`loader` gives unequally many frames: pad them and add a mask."
        )
    return VideoIndex(torch.cat(frames), torch.cat(masks), pooling, temperature)


def encode_frames(encoder: DualEncoder, videos: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f d"]:
    """Return the raw features of preprocessed frames, each encoded on its own."""
    return encoder.encode_image(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])


@torch.no_grad()
def search(
    index: VideoIndex, query: Float[Tensor, "n d"], k: int = 10
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the cosines and the positions of the ``k`` videos nearest to each text feature, best first.

    Raises:
        ValueError: if ``k`` is not between 1 and the number of videos.
    """
    if not 1 <= k <= len(index.frames):
        raise ValueError(f"`k={k}` must lie between 1 and the number of videos, {len(index.frames)}.")
    options: Any = {"pooling": index.pooling, "temperature": index.temperature}
    found = [
        text_video_similarity(some, index.frames, index.mask, **options).topk(k, dim=1)
        for some in query.split(QUERIES_AT_ONCE)
    ]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def _masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    kept = frames.masked_fill(~mask[..., None], 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).to(frames.dtype)


def _best_ranks(similarity: Tensor, right: Tensor) -> Tensor:
    """For each row with a right column: 1, plus wrong ones above the best right one, plus half the ties."""
    rows = right.any(dim=1)
    similarity, right = similarity[rows], right[rows]
    best = similarity.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
    above, level = ((similarity > best) & ~right).sum(dim=1), ((similarity == best) & ~right).sum(dim=1)
    return 1 + above.double() + level.double() / 2


def _summary(ranks: Tensor) -> dict[str, float]:
    recalls = {f"R{k}": 100 * (ranks <= k).double().mean().item() for k in (1, 5, 10)}
    return {**recalls, "MedR": ranks.quantile(0.5).item(), "MeanR": ranks.mean().item()}


def _check_frames(mask: Tensor) -> None:
    empty = torch.nonzero(~mask.any(dim=1)).flatten().tolist()
    if empty:
        raise ValueError(f"`mask` leaves no frame of the videos {empty[:10]}.")


def _check_targets(similarity: Tensor, targets: Tensor) -> None:
    texts, videos = similarity.shape
    if not bool(torch.isfinite(similarity).all()):
        raise ValueError("`similarity` holds NaN or infinity.")
    if len(targets) != texts or not texts or not bool(((targets >= 0) & (targets < videos)).all()):
        raise ValueError(f"`targets` must name a video (0…{videos - 1}) for each of the {texts} texts.")
