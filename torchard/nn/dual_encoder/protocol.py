"""What an encoder of images and text offers to the methods that tune it."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Tower = Literal["image", "text"]


@dataclass(frozen=True)
class BlockSites:
    """Where one transformer block's attention and MLP are, by path below the encoder, and their width.

    Their output (of attention possibly a tuple that begins with it) is what is added to the residual stream.
    """

    attention: str
    mlp: str
    width: int


@runtime_checkable
class DualEncoder(Protocol):
    """Images and texts into one space; implementations are modules.

    Features are raw, not of unit length, unless ``normalize`` is set.

    ``logit_scale`` is the factor on cosines, already exponentiated.
    """

    embed_dim: int
    context_length: int
    image_size: int

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines."""
        ...

    def encode_image(self, images: Float[Tensor, "b c h w"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of preprocessed images."""
        ...

    def encode_text(self, tokens: Int[Tensor, "b l"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of tokenised texts."""
        ...

    def tokenize(self, texts: list[str]) -> Int[Tensor, "b l"]:
        """Return token ids, one row per text."""
        ...

    def embed_tokens(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """Return token embeddings, before positions are added."""
        ...

    def encode_text_embeddings(
        self, embeddings: Float[Tensor, "b l w"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b d"]:
        """Return the features of embedded tokens; ``tokens`` only say where each text ends."""
        ...

    def blocks(self, tower: Tower) -> list[BlockSites]:
        """Return the transformer blocks of a tower, from the input up."""
        ...

    def preprocess(self, images01: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return images with values from 0 to 1 as :meth:`encode_image` wants them, differentiably."""
        ...
