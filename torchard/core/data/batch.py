"""What a training step is handed."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs, their targets, and where in the split each sample stands (``indices``, int64)."""

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def replace(self, **changes: Any) -> "Batch":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __len__(self) -> int:
        return len(self.indices)
