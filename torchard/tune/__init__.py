"""Adapt pre-trained weights: a few trained numbers, one interface for every method."""

from torchard.tune.adapters import (
    AdapterMismatchError,
    AdapterSpec,
    NothingToSaveError,
    NotMergeableError,
    SiteAdapter,
    UnreachableSiteError,
)
from torchard.tune.b_tuning import BTuning
from torchard.tune.interface import TuneSummary
from torchard.tune.ssf import ScaleShift
from torchard.tune.statistics import HeldStatistics
from torchard.tune.tune_mode import NoPairsError, TuneMode

__all__ = [
    "AdapterMismatchError",
    "AdapterSpec",
    "BTuning",
    "HeldStatistics",
    "NoPairsError",
    "NotMergeableError",
    "NothingToSaveError",
    "ScaleShift",
    "SiteAdapter",
    "TuneMode",
    "TuneSummary",
    "UnreachableSiteError",
]
