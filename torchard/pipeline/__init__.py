"""The main job as a chain: rank, tune, prune, export, report. Each link can be called alone."""

from torchard.pipeline.deploy import deploy
from torchard.pipeline.fit import fit
from torchard.pipeline.job import Job
from torchard.pipeline.prune import Pruned, prune
from torchard.pipeline.rank import rank
from torchard.pipeline.score import score
from torchard.pipeline.settings import Settings
from torchard.pipeline.tune import Tuned, tune

__all__ = ["Job", "Pruned", "Settings", "Tuned", "deploy", "fit", "prune", "rank", "score", "tune"]
