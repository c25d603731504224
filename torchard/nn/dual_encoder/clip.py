"""CLIP models of open_clip and transformers behind the one interface of dual encoders."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.core.errors import MissingExtraError
from torchard.nn.dual_encoder.preprocessing import Preprocessing, preprocess
from torchard.nn.dual_encoder.protocol import BlockSites, Tower

Tokenizer = Callable[[list[str]], Tensor]
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def from_open_clip(name: str = "ViT-B-32", pretrained: str | None = "openai", **options: Any) -> "OpenClip":
    """Return a model of open_clip by name, in float32 and eval mode; its weights are downloaded if need be.

    Raises:
        MissingExtraError: if ``open_clip_torch`` is not installed.
    """
    open_clip = _import("open_clip", "open_clip_torch")
    model = open_clip.create_model(name, pretrained=pretrained, **options)
    return OpenClip(model.float().eval(), open_clip.get_tokenizer(name))


def from_transformers(
    name_or_path: str = "openai/clip-vit-base-patch32", **options: Any
) -> "TransformersClip":
    """Return a ``CLIPModel`` of transformers by name or folder, in float32 and eval mode.

    Raises:
        MissingExtraError: if ``transformers`` is not installed.
    """
    transformers = _import("transformers", "transformers")
    model = transformers.CLIPModel.from_pretrained(name_or_path, use_safetensors=True, **options)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(name_or_path)
    processor = transformers.CLIPImageProcessor.from_pretrained(name_or_path)
    settings = Preprocessing(
        model.config.vision_config.image_size, tuple(processor.image_mean), tuple(processor.image_std)
    )
    return TransformersClip(model.float().eval(), hugging_face_tokens(tokenizer), settings)


def wrap(
    model: nn.Module, tokenizer: Tokenizer, settings: Preprocessing | None = None
) -> "OpenClip | TransformersClip":
    """Return a CLIP model that is already built as a dual encoder.

    ``tokenizer`` is a function from texts to a tensor of ids; ``settings`` default to the size the model
    reads and the mean and deviation of OpenAI's CLIP, or what open_clip noted.

    Raises:
        ValueError: if it is neither a CLIP model of open_clip nor of transformers.
    """
    if hasattr(model, "text_model") and hasattr(model, "vision_model"):
        return TransformersClip(model, tokenizer, settings)
    if hasattr(model, "visual") and hasattr(model, "encode_text"):
        return OpenClip(model, tokenizer, settings)
    raise ValueError(
        f"`model` is a {type(model).__name__}, neither a CLIP of open_clip nor a CLIPModel of transformers. "
        "Give it the methods of torchard.nn.dual_encoder.DualEncoder instead."
    )


def hugging_face_tokens(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer of transformers as a function from texts to ids, all padded to its full length."""

    def tokenize(texts: list[str]) -> Tensor:
        found = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        ids: Tensor = found["input_ids"]
        return ids

    return tokenize


class OpenClip(nn.Module):
    """A CLIP model of open_clip as a :class:`~torchard.nn.dual_encoder.DualEncoder`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, settings: Preprocessing | None = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings or _noted_settings(model)
        self.image_size = self.settings.size
        self.context_length = int(model.context_length)
        self.embed_dim = _width_of(self._text.text_projection)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def encode_image(self, images: Float[Tensor, "b c h w"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of preprocessed images."""
        features: Tensor = self.model.encode_image(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Int[Tensor, "b l"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of tokenised texts."""
        features = self.encode_text_embeddings(self.embed_tokens(tokens), tokens)
        return F.normalize(features, dim=-1) if normalize else features

    def tokenize(self, texts: list[str]) -> Int[Tensor, "b l"]:
        """Return token ids, one row per text."""
        return self.tokenizer(texts)

    def embed_tokens(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """Return token embeddings, before positions are added."""
        embeddings: Tensor = self._text.token_embedding(tokens)
        return embeddings

    def encode_text_embeddings(
        self, embeddings: Float[Tensor, "b l w"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b d"]:
        """Return the features of embedded tokens; ``tokens`` only say where each text ends."""
        return _projected(self.text_states(embeddings, tokens), self._text.text_projection)

    def text_states(
        self, embeddings: Float[Tensor, "b l w"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b w"]:
        """Return what the text projection turns into features."""
        text, length = self._text, embeddings.shape[1]
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        states = text.transformer(embeddings + text.positional_embedding[:length], attn_mask=mask)
        return _pooled(text.ln_final(states), tokens, self._pooling, self._end)

    def text_projection(self) -> Float[Tensor, "w d"]:
        """Return the matrix from states to features."""
        found = self._text.text_projection
        matrix: Tensor = found.weight.T if isinstance(found, nn.Linear) else found
        return matrix

    def blocks(self, tower: Tower) -> list[BlockSites]:
        """Return the transformer blocks of a tower, from the input up.

        Raises:
            ValueError: if the tower is no transformer of open_clip's own.
        """
        inner = "visual." if tower == "image" else ("text." if hasattr(self.model, "text") else "")
        owner = self.model.visual if tower == "image" else self._text
        blocks = getattr(getattr(owner, "transformer", None), "resblocks", None)
        if blocks is None:
            raise ValueError(f"the {tower} tower is a {type(owner).__name__}, which has no blocks to adapt.")
        width = int(blocks[0].ln_1.normalized_shape[0])
        start = f"model.{inner}transformer.resblocks"
        return [BlockSites(f"{start}.{i}.attn", f"{start}.{i}.mlp", width) for i in range(len(blocks))]

    def preprocess(self, images01: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return images with values from 0 to 1 as :meth:`encode_image` wants them, differentiably."""
        return preprocess(images01, self.settings)

    @property
    def _text(self) -> Any:
        text = getattr(self.model, "text", self.model)
        if not hasattr(text, "token_embedding") or getattr(text, "cls_emb", None) is not None:
            raise ValueError(
                f"the text tower {type(text).__name__} is not supported; use one of open_clip's own."
            )
        if getattr(text, "use_pad_mask", False):
            raise ValueError("text towers with a padding mask are not supported.")
        return text

    @property
    def _pooling(self) -> str:
        text = self._text
        return str(getattr(text, "text_pool_type", None) or text.pool_type)

    @property
    def _end(self) -> int | None:
        text = self._text
        return getattr(text, "text_eos_id", getattr(text, "eos_id", None))


class TransformersClip(nn.Module):
    """A ``CLIPModel`` of transformers as a :class:`~torchard.nn.dual_encoder.DualEncoder`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, settings: Preprocessing | None = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        config = model.config
        self.settings = settings or Preprocessing(config.vision_config.image_size, _OPENAI_MEAN, _OPENAI_STD)
        self.image_size = self.settings.size
        self.context_length = int(config.text_config.max_position_embeddings)
        self.embed_dim = int(config.projection_dim)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def encode_image(self, images: Float[Tensor, "b c h w"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of preprocessed images."""
        pooled = self.model.vision_model(pixel_values=images).pooler_output
        features: Tensor = self.model.visual_projection(pooled)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Int[Tensor, "b l"], normalize: bool = False) -> Float[Tensor, "b d"]:
        """Return the features of tokenised texts."""
        features = self.encode_text_embeddings(self.embed_tokens(tokens), tokens)
        return F.normalize(features, dim=-1) if normalize else features

    def tokenize(self, texts: list[str]) -> Int[Tensor, "b l"]:
        """Return token ids, one row per text."""
        return self.tokenizer(texts)

    def embed_tokens(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """Return token embeddings, before positions are added."""
        embeddings: Tensor = self.model.text_model.embeddings.token_embedding(tokens)
        return embeddings

    def encode_text_embeddings(
        self, embeddings: Float[Tensor, "b l w"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b d"]:
        """Return the features of embedded tokens; ``tokens`` only say where each text ends."""
        features: Tensor = self.model.text_projection(self.text_states(embeddings, tokens))
        return features

    def text_states(
        self, embeddings: Float[Tensor, "b l w"], tokens: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b w"]:
        """Return what the text projection turns into features."""
        text = self.model.text_model
        states = text.embeddings(inputs_embeds=embeddings)
        mask = causal_mask(embeddings)[None, None]
        states = text.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state
        # Checkpoints from before transformers #24773 name 2 as their end mark; it is the largest id then.
        end = text.eos_token_id
        return _pooled(text.final_layer_norm(states), tokens, "argmax" if end == 2 else "eos", end)

    def text_projection(self) -> Float[Tensor, "w d"]:
        """Return the matrix from states to features."""
        matrix: Tensor = self.model.text_projection.weight.T
        return matrix

    def blocks(self, tower: Tower) -> list[BlockSites]:
        """Return the transformer blocks of a tower, from the input up."""
        name = "vision_model" if tower == "image" else "text_model"
        layers = getattr(self.model, name).encoder.layers
        width = int(layers[0].layer_norm1.normalized_shape[0])
        start = f"model.{name}.encoder.layers"
        return [BlockSites(f"{start}.{i}.self_attn", f"{start}.{i}.mlp", width) for i in range(len(layers))]

    def preprocess(self, images01: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return images with values from 0 to 1 as :meth:`encode_image` wants them, differentiably."""
        return preprocess(images01, self.settings)


def causal_mask(embeddings: Float[Tensor, "b l w"]) -> Float[Tensor, "l l"]:
    """Return what is added to attention scores so that no token sees a later one."""
    length = embeddings.shape[1]
    full = torch.full((length, length), float("-inf"), dtype=embeddings.dtype, device=embeddings.device)
    return full.triu(1)


def _pooled(states: Tensor, tokens: Tensor, pooling: str, end: int | None) -> Tensor:
    """The state that stands for the text, by what the model says of itself; never by the largest id alone."""
    rows = torch.arange(len(states), device=states.device)
    if pooling in ("first", "last"):
        return states[:, 0 if pooling == "first" else -1]
    if pooling == "argmax":
        return states[rows, tokens.argmax(dim=-1)]
    if pooling == "eos" and end is not None:
        return states[rows, (tokens == end).int().argmax(dim=-1)]
    raise ValueError(f"text pooling {pooling!r} gives no single feature.")


def _projected(pooled: Tensor, projection: Any) -> Tensor:
    if projection is None:
        return pooled
    found: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return found


def _width_of(projection: Any) -> int:
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if projection is None:
        raise ValueError("the text tower has no projection; its feature size is unknown.")
    return int(projection.shape[1])


def _noted_settings(model: Any) -> Preprocessing:
    """What open_clip noted on the image tower, OpenAI's mean and deviation where it noted none."""
    visual = model.visual
    noted = getattr(visual, "preprocess_cfg", None) or {}
    size = noted.get("size", visual.image_size)
    size = size if isinstance(size, int) else size[0]
    mean = noted.get("mean") or getattr(visual, "image_mean", None) or _OPENAI_MEAN
    std = noted.get("std") or getattr(visual, "image_std", None) or _OPENAI_STD
    return Preprocessing(int(size), tuple(mean), tuple(std))


def _import(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"{package} is not installed. Install it with: pip install 'torchard[clip]'"
        ) from None
