"""Encoders of images and text side by side: the interface, CLIP models behind it, and a small one."""

from torchard.nn.dual_encoder.captions import Captioned, draw_captioned
from torchard.nn.dual_encoder.clip import (
    OpenClip,
    TransformersClip,
    from_open_clip,
    from_transformers,
    hugging_face_tokens,
    wrap,
)
from torchard.nn.dual_encoder.contrastive import contrastive_loss
from torchard.nn.dual_encoder.preprocessing import Preprocessing
from torchard.nn.dual_encoder.protocol import BlockSites, DualEncoder, Tower
from torchard.nn.dual_encoder.tiny import TinyClip
from torchard.nn.dual_encoder.training import mnist_digits, tiny_clip, train_tiny_clip

__all__ = [
    "BlockSites",
    "Captioned",
    "DualEncoder",
    "OpenClip",
    "Preprocessing",
    "TinyClip",
    "Tower",
    "TransformersClip",
    "contrastive_loss",
    "draw_captioned",
    "from_open_clip",
    "from_transformers",
    "hugging_face_tokens",
    "mnist_digits",
    "tiny_clip",
    "train_tiny_clip",
    "wrap",
]
