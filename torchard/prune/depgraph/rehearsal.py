"""Run a pruned model without data before the real one is touched."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from torchard.prune.depgraph.cutting import apply
from torchard.prune.depgraph.decision import Plan
from torchard.prune.depgraph.tracer import Examples, call, quiet_kernels


def rehearse(
    model: nn.Module,
    plan: Plan,
    example_inputs: Examples,
    *,
    forward: Callable[[nn.Module], Any] | None = None,
) -> None:
    """Check that ``model`` still runs once ``plan`` is applied, on a copy that has shapes but no data.

    A net below the equations: sizes may hide in code no trace sees. Takes about one trace, hardly any
    memory, and leaves the model alone. Where the whole model cannot run without data either, nothing is
    said.

    Raises:
        ValueError: if the cut model would not run, with what it would say.
    """
    try:
        _run(model, plan, example_inputs, forward)
    except Exception as error:
        try:
            _run(model, None, example_inputs, forward)
        except Exception:  # code that looks at values: nothing can be learned without them
            return
        kind = type(model).__name__
        what = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{kind} would not run with the plan applied, and is left as it was: {what}"
        ) from error


def _run(
    model: nn.Module, plan: Plan | None, example_inputs: Examples, forward: Callable[[nn.Module], Any] | None
) -> None:
    shapes = FakeTensorMode(allow_non_fake_inputs=True)

    def emptied(leaf: Any) -> Any:
        return shapes.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf

    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): emptied(tensor) for tensor in tensors}).eval()
    with shapes, quiet_kernels(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        if plan is not None:
            apply(twin, plan)
        call(twin, tree_map(emptied, example_inputs), forward)
