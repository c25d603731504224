"""What each ATen operation does to dimensions, one module per family.

Importing this package registers them all; ``rule`` adds more.
"""

from torchard.prune.depgraph.rules import (  # noqa: F401
    attention,
    convolution,
    factories,
    indexing,
    linear,
    normalisation,
    pointwise,
    recurrent,
    reductions,
    views,
)
