"""Carry out a plan: cut parameters, buffers, gradients and optimiser state; or only set them to zero."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchard.prune.depgraph.decision import Plan
from torchard.prune.depgraph.graph import fingerprint
from torchard.prune.depgraph.repairs import repair_modules
from torchard.prune.depgraph.report import PruneReport


def apply(
    model: nn.Module, plan: Plan, *, inplace: bool = True, optimizer: torch.optim.Optimizer | None = None
) -> PruneReport:
    """Cut ``model`` as ``plan`` says and return what changed; ``report.model`` is the smaller model.

    Parameters keep their identity, so an optimiser goes on with the same objects; give it as ``optimizer``
    to have its state cut too. With ``inplace=False`` the model is copied first. Everything is checked
    before anything is touched. Where attention takes its scale from a width, the weights of the queries
    make up for the change, if they can be told apart from others; else the plan is tagged
    ``changes_scale``.

    Raises:
        ValueError: if the plan was made for other shapes, or was applied already, or the optimiser keeps
            state of a shape that cannot be cut.
    """
    target = model if inplace else copy.deepcopy(model)
    tensors = named_tensors(target)
    check_shapes(tensors, plan)
    cuts = {name: cut_tensor(tensors[name].detach(), dims) for name, dims in plan.slices.items()}
    states = _cut_states(optimizer, tensors, plan) if optimizer is not None else []
    for name, value in cuts.items():
        _swap(tensors[name], value, plan.slices[name])
    for state, key, value in states:
        state[key] = value
    _rescale(tensors, plan)
    repair_modules(target, plan)
    refresh_caches(target)
    return PruneReport(target, plan)


def mask(model: nn.Module, plan: Plan) -> "MaskHandle":
    """Set to zero, in place, every entry that ``plan`` would remove; undo with ``.remove()``.

    Raises:
        ValueError: if the plan was made for other shapes.
    """
    tensors = named_tensors(model)
    check_shapes(tensors, plan)
    saved = {name: tensors[name].detach().clone() for name in plan.slices}
    for name, dims in plan.slices.items():
        zero_removed_(tensors[name], dims)
    return MaskHandle(model, plan, saved)


@dataclass(frozen=True)
class MaskHandle:
    """A soft-pruned model: what was zeroed, and the values to put back."""

    model: nn.Module
    plan: Plan
    saved: Mapping[str, Tensor]

    def remove(self) -> None:
        """Put every tensor back, bit for bit."""
        tensors = named_tensors(self.model)
        with torch.no_grad():
            for name, value in self.saved.items():
                tensors[name].copy_(value)

    def finalize(self, *, optimizer: torch.optim.Optimizer | None = None) -> PruneReport:
        """Remove the zeroed units for good."""
        return apply(self.model, self.plan, optimizer=optimizer)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first name, as a trace records them."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in seen:
            tensors[name] = tensor
            seen.add(id(tensor))
    return tensors


def check_shapes(tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Refuse a model whose parameters are not those the plan was made for."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if fingerprint(shapes) == plan.fingerprint:
        return
    for name, dims in plan.slices.items():
        if name in shapes and any(shapes[name][dim] != plan.shapes[name][dim] for dim in dims):
            raise ValueError(
                f"the plan was made for {name} of shape {plan.shapes[name]}, the model's is {shapes[name]}; "
                "a plan is applied once: trace the model again"
            )
    different = sorted(set(shapes.items()) ^ set(plan.shapes.items()))[:1]
    raise ValueError(
        f"the plan was made for another model; they differ in {different[0][0] if different else '?'}"
    )


def cut_tensor(tensor: Tensor, dims: Mapping[int, list[int]]) -> Tensor:
    """Return the kept part of ``tensor`` (dimension → positions), in its own memory format."""
    last = tensor.is_contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else False
    for dim, positions in dims.items():
        tensor = tensor.index_select(dim, torch.tensor(positions, dtype=torch.long, device=tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor.contiguous()


@torch.no_grad()
def zero_removed_(tensor: Tensor, dims: Mapping[int, list[int]]) -> None:
    """Set to zero what :func:`cut_tensor` would leave out."""
    for dim, positions in dims.items():
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        gone[positions] = False
        tensor.index_fill_(dim, gone.nonzero().flatten(), 0)


def refresh_caches(model: nn.Module) -> None:
    """Let modules drop what they cached from old weights: many do so when switched between modes."""
    flags = {module: module.training for module in model.modules()}
    model.train(not model.training)
    model.train(not model.training)
    for module, training in flags.items():
        module.training = training


def _swap(tensor: Tensor, value: Tensor, dims: Mapping[int, list[int]]) -> None:
    gradient = tensor.grad
    tensor.grad = None
    if tensor.requires_grad:
        # An older graph that is still alive (a kept loss) pins the shape autograd expects of this leaf;
        # only a change of type lets go of it.
        other = torch.float32 if value.dtype == torch.float64 else torch.float64
        tensor.data = value.new_empty(0, dtype=other)
    tensor.data = value
    if gradient is not None:
        tensor.grad = cut_tensor(gradient.detach(), dims)


@torch.no_grad()
def _rescale(tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Let queries make up for the narrower width by which attention divides."""
    for name, dim, positions, factor in plan.rescaled:
        index = torch.tensor(positions, dtype=torch.long, device=tensors[name].device)
        scales = torch.ones(tensors[name].shape[dim], dtype=torch.float64, device=tensors[name].device)
        shape = [-1 if place == dim else 1 for place in range(tensors[name].dim())]
        tensors[name].data *= scales.index_fill_(0, index, factor).to(tensors[name].dtype).view(shape)


def _cut_states(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plan: Plan
) -> list[tuple[dict[str, Any], str, Tensor]]:
    cuts = []
    for name, dims in plan.slices.items():
        state = optimizer.state.get(tensors[name], {})
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.numel() == 1:
                continue
            if value.shape != tensors[name].shape:
                raise ValueError(
                    f"the optimiser's {key!r} of {name} has shape {tuple(value.shape)}, not the parameter's; "
                    "build a new optimiser after pruning"
                )
            cuts.append((state, key, cut_tensor(value, dims)))
    return cuts
