"""Compress a vision transformer by learning which heads, widths and blocks it can do without (UVC)."""

from torchard.core.method import Method
from torchard.prune.uvc.callback import UVC, Search
from torchard.prune.uvc.cost import resource
from torchard.prune.uvc.cutting import NarrowAttention, export, mask
from torchard.prune.uvc.decision import Counts, UVCDecision
from torchard.prune.uvc.distillation import Distillation, Distilled, distillation_loss
from torchard.prune.uvc.gates import Gates, attach
from torchard.prune.uvc.primal_dual import Rates, Variables
from torchard.prune.uvc.projection import project
from torchard.prune.uvc.scores import Scores, bottom_k_sum, measure_scores, prox_
from torchard.prune.uvc.stages import CompressedModel, compress
from torchard.prune.uvc.store import load_compressed, save_compressed
from torchard.prune.uvc.structure import Adapter, Skipped, UnsupportedModel, ViTSpec

METHOD = Method(
    shapes=("transform",),
    source="Yu et al., ICLR 2022, arXiv 2203.08243",
    claim="DeiT-Small at 50 % of its operations within one point of its accuracy (79.8 to 78.8 %).",
)

__all__ = [
    "METHOD",
    "UVC",
    "Adapter",
    "CompressedModel",
    "Counts",
    "Distillation",
    "Distilled",
    "Gates",
    "NarrowAttention",
    "Rates",
    "Scores",
    "Search",
    "Skipped",
    "UVCDecision",
    "UnsupportedModel",
    "Variables",
    "ViTSpec",
    "attach",
    "bottom_k_sum",
    "compress",
    "distillation_loss",
    "export",
    "load_compressed",
    "mask",
    "measure_scores",
    "project",
    "prox_",
    "resource",
    "save_compressed",
]
