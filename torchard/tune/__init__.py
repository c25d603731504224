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
from torchard.tune.cross_modal_adapter import CrossModalAdapters
from torchard.tune.interface import TuneSummary
from torchard.tune.retrieval import VideoIndex
from torchard.tune.ssf import ScaleShift
from torchard.tune.statistics import HeldStatistics
from torchard.tune.taskres import TaskResidual
from torchard.tune.text_classifier import ZeroShotClassifier
from torchard.tune.tune_mode import NoPairsError, TuneMode

__all__ = [
    "AdapterMismatchError",
    "AdapterSpec",
    "BTuning",
    "CrossModalAdapters",
    "HeldStatistics",
    "NoPairsError",
    "NotMergeableError",
    "NothingToSaveError",
    "ScaleShift",
    "SiteAdapter",
    "TaskResidual",
    "TuneMode",
    "TuneSummary",
    "UnreachableSiteError",
    "VideoIndex",
    "ZeroShotClassifier",
]
