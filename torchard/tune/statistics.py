"""Keep the running statistics of batch norms as they were trained, through ``model.train()``."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def hold_statistics_(model: nn.Module) -> None:
    """Put every batch norm with running statistics into eval mode, until the next ``model.train()``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.training = False
