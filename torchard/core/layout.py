"""Where and how a model's tensors lie, so that its inputs can lie the same way."""

import torch
from torch import Tensor, nn

from torchard.core.data.batch import Batch


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return ``channels_last`` if the model's convolutions lie in that format, else ``contiguous_format``.

    The first four-dimensional weight decides that lies one way and not the other (1×1 kernels lie both ways).
    """
    for weight in model.parameters():
        if weight.dim() == 4:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            if last != weight.is_contiguous():
                return torch.channels_last if last else torch.contiguous_format
    return torch.contiguous_format


def placed(tensor: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    """Return the tensor on ``device``, in ``layout`` if it is a batch of images."""
    if tensor.dim() != 4:
        return tensor.to(device, non_blocking=True)
    return tensor.to(device, non_blocking=True, memory_format=layout)


def placed_batch(batch: Batch, device: torch.device, layout: torch.memory_format) -> Batch:
    """Return the batch with all its tensors on ``device``, the inputs in ``layout``."""
    return batch.replace(
        inputs=placed(batch.inputs, device, layout),
        targets=batch.targets.to(device, non_blocking=True),
        indices=batch.indices.to(device, non_blocking=True),
    )
