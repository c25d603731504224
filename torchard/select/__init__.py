"""Choose a pre-trained model, or which of its features: scores from one forward pass, with error bars."""

from torchard.select.logme import LogMEAccumulator, LogMEFit
from torchard.select.ranking import Ranking
from torchard.select.scorers import JointScorer, Look, Scorer

__all__ = ["JointScorer", "LogMEAccumulator", "LogMEFit", "Look", "Ranking", "Scorer"]
