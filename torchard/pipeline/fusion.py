"""Let batch norms that stay as they are compute within their convolutions: the same numbers, sooner.

That is Tune mode (You et al., ICLR 2024), here for the passes it saves; ``tune_mode.detach`` undoes it.
"""

import contextlib

from torch import nn

from torchard.core.surgery import Patterns
from torchard.tune import tune_mode


def fuse_(model: nn.Module, modules: Patterns | None = None) -> None:
    """Let pairs of convolution and batch norm compute as one in eval mode, in place; below ``modules`` only.

    A model without such pairs stays as it is.
    """
    with contextlib.suppress(tune_mode.NoPairsError):
        tune_mode.attach(model, modules=modules)


def fuse_frozen_(model: nn.Module) -> None:
    """Let the pairs whose norm is not trained compute as one in eval mode, in place."""
    still = [
        name
        for name, module in model.named_modules()
        if name and isinstance(module, nn.modules.batchnorm._BatchNorm) and not _trained(module)
    ]
    if still:
        fuse_(model, still)


def _trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
