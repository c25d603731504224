"""Keep the running statistics of batch norms as they were trained, through ``model.train()``."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchard.core.callback import Callback, TrainingRun


def hold_statistics_(model: nn.Module) -> None:
    """Put every batch norm with running statistics into eval mode, until the next ``model.train()``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.training = False


class HeldStatistics(Callback):
    """Hold the statistics of all batch norms while the Trainer trains; see :func:`hold_statistics_`."""

    def on_fit_start(self, run: TrainingRun) -> None:
        """Hold them before the first step."""
        hold_statistics_(run.model)

    def on_epoch_start(self, run: TrainingRun) -> None:
        """Hold them again, should anything have called ``model.train()``."""
        hold_statistics_(run.model)
