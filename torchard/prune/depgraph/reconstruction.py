"""Refit the layers of a pruned model to what the unpruned one puts out: least squares instead of training."""

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchard.core.surgery import flags_kept
from torchard.prune.depgraph.cutting import check_shapes, named_tensors, refresh_caches
from torchard.prune.depgraph.decision import Plan
from torchard.prune.depgraph.tracer import Examples, call

ENTRIES = 2**21  # about as many numbers go into the fit of one layer
ROWS_PER_WEIGHT = 8  # but so many positions at least for each weight of one output

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Hook = Callable[[str, nn.Module, Tensor, Any], None]


def reconstruct_(
    model: nn.Module, original: nn.Module, plan: Plan, inputs: Examples, *, ridge: float = 0.01, seed: int = 0
) -> list[str]:
    """Refit what ``plan`` cut of ``model``, so that it puts out what ``original`` does.

    One pass through ``original`` notes what its layers put out. One pass through ``model`` then mends it from
    the input on: linear and convolutional layers that lost inputs get the weights that come nearest to those
    outputs from what really arrives, errors of the layers before included; batch norms shift their mean.
    Grouped convolutions stay as they are, and so do layers that run more than once or share their weight.
    Returns the names of the layers refitted.

    Args:
        model: a copy of ``original`` that ``plan`` was applied to.
        original: the model as it was; it is not changed.
        inputs: one batch like those of training, augmented alike, in any of the forms :func:`trace` takes;
            some 250 images are enough. Takes the time and memory of a forward pass of each model, and the
            cube of the widest layer's inputs.
        ridge: how firmly weights are held to those the cut left, as a share of the mean variance of the
            layer's inputs.
        seed: of the positions drawn where maps are large.

    Raises:
        ValueError: if ``ridge`` is not positive, ``model`` is not what the plan makes of ``original``, or a
            layer meets values that are not finite (the layers before it are refitted by then).

    Source: He, Zhang and Sun, *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017,
    arXiv 1707.06168, sections 3.1 and 3.2.
    """
    if not ridge > 0:
        raise ValueError(f"`ridge={ridge}` must be positive: inputs that are alike need it")
    check_shapes(named_tensors(original), plan)
    _check_cut(named_tensors(model), plan)
    refitted: list[str] = []

    def mend(name: str, layer: nn.Module, x: Tensor, _output: None) -> None:
        if isinstance(layer, _BatchNorm):
            _shift_(name, layer, x, aims[name])
        elif not isinstance(layer, nn.Linear) or tuple(x.shape[:-1]) == aims[name].lead:
            # else channels were cut where this layer sees positions, as between the mixers of an MLP-Mixer
            _refit_(name, layer, x, aims[name], ridge)
            refitted.append(name)

    with torch.no_grad(), flags_kept(model), flags_kept(original):
        notes = _Notes(plan, seed)
        with _watched(_mendable(original, plan), notes.take):
            call(original.eval(), inputs)
        aims = notes.aims
        layers = {name: module for name, module in model.named_modules() if name in aims}
        with _watched(layers, mend, before=True):
            call(model.eval(), inputs)
    refresh_caches(model)
    return refitted


def _check_cut(tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Refuse a model that is not what the plan leaves."""
    for name, shape in plan.shapes.items():
        dims = plan.slices.get(name, {})
        left = tuple(len(dims[dim]) if dim in dims else size for dim, size in enumerate(shape))
        if name not in tensors or tuple(tensors[name].shape) != left:
            raise ValueError(
                f"`model` is not `original` cut by this plan: {name} would have the shape {left}"
            )


@dataclass
class _Aim:
    """What a layer of the original puts out at some positions."""

    values: Float[Tensor, "rows out"]
    at: tuple[Tensor, ...]  # sample and place in it, row by row
    lead: tuple[int, ...]  # the sizes that these lie in
    normed: bool = False  # a batch norm right behind can shift the output


class _Notes:
    """The aims of all layers, taken during one pass of the original."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.generator = torch.Generator().manual_seed(seed)
        self.aims: dict[str, _Aim] = {}
        self.seen: set[str] = set()
        self.last: tuple[str, weakref.ref[Tensor]] | None = None

    def take(self, name: str, layer: nn.Module, x: Tensor, out: Tensor) -> None:
        if name in self.seen or not _is_batch(layer, x):
            self.aims.pop(name, None)
            return
        self.seen.add(name)
        if isinstance(layer, _BatchNorm):
            if self.last is not None and self.last[1]() is x and self.last[0] in self.aims:
                self.aims[self.last[0]].normed = True
            out = _normalised(layer, x)  # without what a subclass may add behind, such as an activation
        else:
            self.last = name, weakref.ref(out)
        rows = _channels_last(layer, out)
        lead = tuple(rows.shape[:-1])
        drawn = torch.randperm(math.prod(lead), generator=self.generator)[: _sample_size(layer)]
        at = torch.unravel_index(drawn.to(out.device), lead)
        keep = self.plan.slices.get(f"{name}.weight", {}).get(0, slice(None))
        self.aims[name] = _Aim(rows[at][:, keep], at, lead)


def _mendable(original: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """Layers of the kinds known here that lost inputs, and all batch norms that can shift a mean."""
    modules = dict(original.named_modules())
    users = Counter(id(weight) for module in modules.values() for weight in module._parameters.values())

    def fits(name: str, module: nn.Module) -> bool:
        weight = module._parameters.get("weight")
        if weight is None or users[id(weight)] > 1:
            return False
        if isinstance(module, _BatchNorm):
            return module.running_mean is not None
        dense = isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and module.groups == 1)
        return dense and 1 in plan.slices.get(f"{name}.weight", {})

    return {name: module for name, module in modules.items() if fits(name, module)}


@contextmanager
def _watched(layers: Mapping[str, nn.Module], see: Hook, *, before: bool = False) -> Iterator[None]:
    """Let ``see`` have each layer's input, and its output or else (``before``) the say before it runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, args, output=None: see(name, layer, args[0], output) if args else None

    def add(layer: nn.Module) -> Callable[..., Any]:
        return layer.register_forward_pre_hook if before else layer.register_forward_hook

    handles = [add(layer)(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shift_(name: str, norm: Any, x: Tensor, aim: _Aim) -> None:
    """Give what the norm makes of ``x`` the mean of the aim."""
    found = _channels_last(norm, _normalised(norm, x))[aim.at]
    norm.bias.add_(_finite(name, (aim.values - found).mean(dim=0)))


def _refit_(name: str, layer: Any, x: Tensor, aim: _Aim, ridge: float) -> None:
    """Give the layer the weight (and bias) that brings what it makes of ``x`` nearest to the aim."""
    rows, values = _patches(layer, x, aim.at), aim.values.float()
    mean_in, mean_out = rows.mean(dim=0), values.mean(dim=0)
    if layer.bias is None and not aim.normed:
        mean_in, mean_out = torch.zeros_like(mean_in), torch.zeros_like(mean_out)
    weight = _fitted(rows - mean_in, values - mean_out, layer.weight.flatten(1), ridge)
    layer.weight.copy_(_finite(name, weight).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(mean_out - weight.float() @ mean_in)


def _fitted(
    rows: Float[Tensor, "n k"], values: Float[Tensor, "n out"], prior: Float[Tensor, "out k"], ridge: float
) -> Float[Tensor, "out k"]:
    """Return the w that makes ‖values − rows wᵀ‖²/n + λ‖w − prior‖² smallest, in double precision."""
    gram = (rows.mT @ rows / len(rows)).double()
    # An input that is zero everywhere keeps its weight, if only by a hair.
    hold = ridge * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    gram.diagonal().add_(hold)
    wanted = (values.mT @ rows / len(rows)).double() + hold * prior.double()
    return torch.linalg.solve(gram, wanted, left=False)


def _patches(layer: Any, x: Tensor, at: tuple[Tensor, ...]) -> Float[Tensor, "rows k"]:
    """What the outputs at these positions are computed from, in the order of the flattened weight."""
    if isinstance(layer, nn.Linear):
        return x[at].float()
    if any(layer._reversed_padding_repeated_twice):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    x = x.movedim(1, -1)
    sample, *place = at
    taps = []
    for offsets in itertools.product(*map(range, layer.kernel_size)):
        moved = [
            position * stride + offset * dilation
            for position, stride, offset, dilation in zip(place, layer.stride, offsets, layer.dilation)
        ]
        taps.append(x[(sample, *moved)])
    return torch.stack(taps, dim=-1).flatten(1).float()


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What a batch norm in eval mode puts out."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _channels_last(layer: nn.Module, out: Tensor) -> Tensor:
    return out if isinstance(layer, nn.Linear) else out.movedim(1, -1)


def _is_batch(layer: Any, x: Tensor) -> bool:
    """Whether the input has a dimension of samples, which convolutions can do without."""
    return isinstance(layer, (nn.Linear, _BatchNorm)) or x.dim() == 2 + len(layer.kernel_size)


def _sample_size(layer: Any) -> int:
    if isinstance(layer, _BatchNorm):
        return ENTRIES // layer.num_features
    outputs, weights = layer.weight.flatten(1).shape
    return max(ENTRIES // max(outputs, weights), ROWS_PER_WEIGHT * weights)


def _finite(name: str, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise ValueError(f"{name} meets NaN or infinity; check the model and the inputs")
    return values
