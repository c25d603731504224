"""Tiny configurations of real transformers architectures, randomly initialised."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from experiments.prune.subject import Subject

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {
    "image_size": 32,
    "patch_size": 8,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
}
Build = Callable[[], Any]


def ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1, 99, (2, 12))}


def pixels(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def _build(config: str, model: str, inputs: Callable[[], Any], **options: Any) -> Build:
    def build() -> Any:
        settings = getattr(transformers, config)(**options)
        settings.use_cache = False
        built: nn.Module = getattr(transformers, model)(settings)
        return Subject(built, inputs())

    return build


def _eager(build: Build) -> Build:
    def eager() -> Any:
        subject = build()
        subject.model.set_attn_implementation("eager")
        return subject

    return eager


_LLAMA = {**TEXT, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
_GPT2 = {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_CLIP = {
    "text_config": {**TEXT, "intermediate_size": 64, "max_position_embeddings": 32, "eos_token_id": 2},
    "vision_config": {**VISION, "intermediate_size": 64},
    "projection_dim": 16,
}
_SEGFORMER = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 32,
    "num_labels": 4,
}
_WAV2VEC = {
    **TEXT, "apply_spec_augment": False, "intermediate_size": 64, "conv_dim": (16, 16),
    "conv_stride": (4, 4), "conv_kernel": (8, 8),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def text_and_pixels() -> dict[str, torch.Tensor]:
    return {**ids(), **pixels()}


def both_texts() -> dict[str, torch.Tensor]:
    return {**ids(), "decoder_input_ids": torch.randint(1, 99, (2, 6))}


def sound() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(1, 2000)}


MODELS: dict[str, Build] = {
    "bert": _build("BertConfig", "BertForSequenceClassification", ids, **TEXT, intermediate_size=64),
    "roberta": _build("RobertaConfig", "RobertaForMaskedLM", ids, **TEXT, intermediate_size=64),
    "distilbert": _build(
        "DistilBertConfig", "DistilBertForSequenceClassification", ids,
        vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64,
    ),
    "electra": _build("ElectraConfig", "ElectraForSequenceClassification", ids, **TEXT, embedding_size=16),
    "gpt2": _build("GPT2Config", "GPT2LMHeadModel", ids, **_GPT2),
    "llama": _build("LlamaConfig", "LlamaForCausalLM", ids, **_LLAMA),
    "llama_eager": _eager(_build("LlamaConfig", "LlamaForCausalLM", ids, **_LLAMA)),
    "mistral": _build("MistralConfig", "MistralForCausalLM", ids, **_LLAMA),
    "qwen2": _build("Qwen2Config", "Qwen2ForCausalLM", ids, **_LLAMA),
    "qwen3": _build("Qwen3Config", "Qwen3ForCausalLM", ids, **_LLAMA, head_dim=8),
    "opt": _build(
        "OPTConfig", "OPTForCausalLM", ids,
        **TEXT, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64,
    ),
    "t5": _build("T5Config", "T5ForConditionalGeneration", both_texts, **_T5),
    "clip": _build("CLIPConfig", "CLIPModel", text_and_pixels, **_CLIP),
    "vit": _build("ViTConfig", "ViTForImageClassification", pixels, **VISION, intermediate_size=64),
    "dinov2": _build("Dinov2Config", "Dinov2ForImageClassification", pixels, **VISION),
    "swin": _build(
        "SwinConfig", "SwinForImageClassification", lambda: pixels(64),
        image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4,
    ),
    "convnext": _build(
        "ConvNextConfig", "ConvNextForImageClassification", lambda: pixels(64),
        hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1],
    ),
    "segformer": _build(
        "SegformerConfig", "SegformerForSemanticSegmentation", lambda: pixels(64), **_SEGFORMER
    ),
    "mamba": _build(
        "MambaConfig", "MambaForCausalLM", ids,
        vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8,
    ),
    "wav2vec2": _build("Wav2Vec2Config", "Wav2Vec2Model", sound, **_WAV2VEC),
    "albert": _build(
        "AlbertConfig", "AlbertForSequenceClassification", ids,
        **TEXT, embedding_size=16, intermediate_size=64,
    ),
}  # fmt: skip
