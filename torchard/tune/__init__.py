"""Adapt pre-trained weights: a few trained numbers, one interface for every method."""

from torchard.tune.adapters import (
    AdapterMismatchError,
    AdapterSpec,
    NothingToSaveError,
    NotMergeableError,
    SiteAdapter,
    UnreachableSiteError,
)
from torchard.tune.interface import TuneSummary
from torchard.tune.ssf import ScaleShift

__all__ = [
    "AdapterMismatchError",
    "AdapterSpec",
    "NotMergeableError",
    "NothingToSaveError",
    "ScaleShift",
    "SiteAdapter",
    "TuneSummary",
    "UnreachableSiteError",
]
