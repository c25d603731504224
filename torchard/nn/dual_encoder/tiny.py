"""A small encoder of grey images and captions, for tests and examples without a download."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.nn.dual_encoder.preprocessing import Preprocessing, preprocess
from torchard.nn.dual_encoder.protocol import BlockSites, Tower

SIZE, PATCH, WIDTH, DEPTH, HEADS, CONTEXT = 28, 7, 64, 3, 4, 12
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPECIAL = ("<pad>", "<sot>", "<eot>")
VOCABULARY: tuple[str, ...] = (
    *SPECIAL,
    *DIGITS,
    *("a", "an", "the", "of", "in", "photo", "image", "picture", "video", "digit"),
    *("thick", "bold", "thin", "fine", "tilted", "inverted", "negative", "plain", "small", "large"),
    *("top", "middle", "bottom", "left", "right", "centre"),
    *("still", "moving", "horizontally", "vertically", "diagonally", "at", "with"),
)


class TinyClip(nn.Module):
    """Two transformers of width 64 and three blocks: 28×28 grey images in 7×7 patches, captions of words.

    A :class:`~torchard.nn.dual_encoder.DualEncoder` of 316,417 numbers.
    """

    embed_dim = WIDTH
    context_length = CONTEXT
    image_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.visual = VisionTower()
        self.text = TextTower()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.settings = Preprocessing(SIZE, (0.5,), (0.5,))

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines, at most 100."""
        return self.log_scale.clamp(max=math.log(100)).exp()

    def encode_image(
        self, images: Float[Tensor, "b 1 28 28"], normalize: bool = False
    ) -> Float[Tensor, "b 64"]:
        """Return the features of preprocessed images."""
        features: Tensor = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Int[Tensor, "b l"], normalize: bool = False) -> Float[Tensor, "b 64"]:
        """Return the features of tokenised captions."""
        features = self.encode_text_embeddings(self.embed_tokens(tokens), tokens)
        return F.normalize(features, dim=-1) if normalize else features

    def tokenize(self, texts: list[str]) -> Int[Tensor, "b 12"]:
        """Return the ids of the words of each text between a start and an end mark, padded.

        Raises:
            ValueError: if a word is not in the vocabulary, which is listed, or a text is too long.
        """
        rows = [[1, *map(_word_id, text.lower().split()), 2] for text in texts]
        longest = max(rows, key=len, default=[])
        if len(longest) > CONTEXT:
            raise ValueError(f"a text has {len(longest) - 2} words; at most {CONTEXT - 2} fit.")
        return torch.tensor([[*row, *[0] * (CONTEXT - len(row))] for row in rows])

    def embed_tokens(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l 64"]:
        """Return token embeddings, before positions are added."""
        embeddings: Tensor = self.text.embedding(tokens)
        return embeddings

    def encode_text_embeddings(
        self, embeddings: Float[Tensor, "b l 64"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b 64"]:
        """Return the features of embedded tokens, read off at the end mark of ``tokens``."""
        features: Tensor = self.text.projection(self.text_states(embeddings, tokens))
        return features

    def text_states(
        self, embeddings: Float[Tensor, "b l 64"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b 64"]:
        """Return what the text projection turns into features."""
        states: Tensor = self.text(embeddings, (tokens == 2).int().argmax(dim=1))
        return states

    def text_projection(self) -> Float[Tensor, "64 64"]:
        """Return the matrix from states to features."""
        return self.text.projection.weight.T

    def blocks(self, tower: Tower) -> list[BlockSites]:
        """Return the transformer blocks of a tower, from the input up."""
        start = "visual" if tower == "image" else "text"
        return [
            BlockSites(f"{start}.blocks.{i}.attn", f"{start}.blocks.{i}.mlp", WIDTH) for i in range(DEPTH)
        ]

    def preprocess(self, images01: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 28 28"]:
        """Return images with values from 0 to 1 as :meth:`encode_image` wants them, differentiably."""
        return preprocess(images01, self.settings)

    def forward(self, images: Float[Tensor, "b 1 28 28"], tokens: Int[Tensor, "t l"]) -> Float[Tensor, "b t"]:
        """Return the scaled cosines of every image with every text."""
        return self.logit_scale * self.encode_image(images, True) @ self.encode_text(tokens, True).T


class VisionTower(nn.Module):
    """Patches and a class token through the blocks; the class token's place becomes the feature."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.token = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + (SIZE // PATCH) ** 2, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*[Block(causal=False) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 64"]:
        """Return the features of images."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), 1, -1), patches], dim=1) + self.positions
        features: Tensor = self.projection(self.norm(self.blocks(tokens)[:, 0]))
        return features


class TextTower(nn.Module):
    """Embedded words through causal blocks; the place of the end mark stands for the text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), WIDTH)
        self.positions = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*[Block(causal=True) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, embeddings: Float[Tensor, "b l 64"], ends: Int[Tensor, " b"]) -> Float[Tensor, "b 64"]:
        """Return the states of embedded texts at their ``ends``, before the projection."""
        states: Tensor = self.norm(self.blocks(embeddings + self.positions[: embeddings.shape[1]]))
        return states[torch.arange(len(states)), ends]


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to its input."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention(causal=causal)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, tokens: Float[Tensor, "b l 64"]) -> Float[Tensor, "b l 64"]:
        """Return the tokens after this block."""
        tokens = tokens + self.attn(self.norm1(tokens))
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class Attention(nn.Module):
    """Multi-head self-attention, causal for text."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Float[Tensor, "b l 64"]) -> Float[Tensor, "b l 64"]:
        """Return what each token gathers from the others."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        output: Tensor = self.proj(gathered.transpose(1, 2).flatten(2))
        return output


def _word_id(word: str) -> int:
    if word not in _IDS or word in SPECIAL:
        known: Sequence[str] = VOCABULARY[len(SPECIAL) :]
        raise ValueError(f"the word {word!r} is not in the vocabulary: {', '.join(known)}.")
    return _IDS[word]


_IDS = {word: number for number, word in enumerate(VOCABULARY)}
