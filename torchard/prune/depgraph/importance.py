"""How much each unit of a group matters: scores of its members, reduced and normalised."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard.prune.depgraph.algebra import Axis
from torchard.prune.depgraph.graph import DimGraph, Group, Member

Reduce = Literal["mean", "sum", "max", "prod", "first"]
Normalize = Literal["mean", "max", "sum", "standard", "gaussian", "lamp"]
Criterion = Callable[[Member], Tensor | None]


def score(
    group: Group,
    criterion: Criterion | str = "l2",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize | None = "mean",
    bias: bool = False,
) -> Float[Tensor, " n"]:
    """Return one importance per unit of ``group``; the lowest go first.

    Output sides, input sides, norm weights, depthwise kernels and bare parameters all count, since they are
    removed together; biases only with ``bias``, running statistics never. A criterion that returns ``None``
    for a member abstains.

    Raises:
        ValueError: if no member has a score, gradients are missing, or a score is not finite (the parameter
            is named).
    """
    measure = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    members = [m for m in group.members if m.role != "buffer" and (bias or m.role != "bias")]
    members = members or [m for m in group.members if m.role != "buffer"]
    scores = [_checked(found, member) for member in members if (found := measure(member)) is not None]
    if not scores:
        raise ValueError(f"the criterion abstains from every member of group {group.id}")
    return normalise(_REDUCTIONS[reduce](torch.stack(scores)), normalize)


def normalise(scores: Float[Tensor, " n"], how: Normalize | None) -> Float[Tensor, " n"]:
    """Make scores of different groups comparable; a constant group is not divided by zero."""
    if how is None:
        return scores
    if how == "standard":
        low, high = scores.min(), scores.max()
        return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)
    if how == "gaussian":
        spread = scores.std() if scores.numel() > 1 else scores.new_zeros(())
        return (scores - scores.mean()) / spread if spread > 0 else torch.zeros_like(scores)
    if how == "lamp":
        return lamp_scores(scores)
    total = _REDUCTIONS[how](scores)
    return scores / total if total != 0 else scores


def lamp_scores(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Divide each score by the sum of all scores not smaller than it (Lee et al. 2021).

    Scores 1, 2, 3, 4 give 1/10, 2/9, 3/7, 1.
    """
    ordered, order = scores.sort()
    tails = ordered.flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(ordered, ordered)  # equal scores share the sum that counts them all
    shares = torch.where(tails[first] > 0, ordered / tails[first], torch.zeros_like(ordered))
    return torch.empty_like(shares).scatter_(0, order, shares)


def per_unit(entries: Tensor, member: Member) -> Float[Tensor, " n"]:
    """Sum a tensor shaped like the member's over everything that belongs to each unit.

    Units that a grouped layer repeats are averaged over its groups.
    """
    return per_position_units(_rows(entries, member).sum(dim=1), member)


def per_position_units(values: Float[Tensor, " p"], member: Member) -> Float[Tensor, " n"]:
    """Sum values given per position of the member's dimension over the positions of each unit."""
    positions, units = (torch.tensor(column, device=values.device) for column in member.places)
    total = values.new_zeros(member.axis.size).index_add_(0, units, values[positions])
    return total / member.copies


def l1(member: Member) -> Tensor:
    """Sum of magnitudes."""
    return per_unit(_weight(member).abs(), member)


def l2(member: Member) -> Tensor:
    """Sum of squares."""
    return per_unit(_weight(member).square(), member)


def taylor(member: Member) -> Tensor:
    """First-order change of the loss when a unit goes: magnitude of the sum of weight times gradient."""
    return per_unit(_weight(member) * _gradient(member), member).abs()


def taylor_per_element(member: Member) -> Tensor:
    """Sum of magnitudes of weight times gradient."""
    return per_unit((_weight(member) * _gradient(member)).abs(), member)


def bn_scale(member: Member) -> Tensor | None:
    """Magnitude of the normalisation weight; other members abstain."""
    return per_unit(_weight(member).abs(), member) if member.role == "norm" else None


def fpgm(member: Member) -> Tensor:
    """Sum of distances to all other units of the group (He et al. 2019): units near the median go first."""
    rows = _rows(_weight(member), member)
    positions, units = (torch.tensor(column, device=rows.device) for column in member.places)
    order = torch.argsort(units, stable=True)
    vectors = rows[positions[order]].reshape(member.axis.size, -1)
    return torch.cdist(vectors, vectors).sum(dim=1) / member.copies


def lamp(member: Member) -> Tensor:
    """Squares, each divided by the sum of all that are not smaller."""
    return lamp_scores(l2(member))


def random_scores(seed: int = 0) -> Criterion:
    """Return a criterion that draws scores at random, the same for the same seed and sequence of groups."""
    generator = torch.Generator().manual_seed(seed)

    def draw(member: Member) -> Tensor:
        return torch.rand(member.axis.size, generator=generator)

    return draw


def hessian(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], samples: Iterable[Any]) -> Criterion:
    """Return the criterion Σ w²·E[g²], the expectation being the mean over ``samples`` (one backward each).

    ``loss(model, sample)`` is the loss of one sample. Gradients of the model are put back afterwards.
    """
    squares = mean_squared_gradients(model, loss, samples)

    def second_order(member: Member) -> Tensor | None:
        square = squares.get(id(member.tensor))
        return None if square is None else per_unit(_weight(member).square() * square, member)

    return second_order


def fisher(graph: DimGraph, loss: Callable[[nn.Module, Any], Tensor], samples: Iterable[Any]) -> Criterion:
    """Return the criterion E[(Σ w·g)²], the expectation being the mean over ``samples`` (one backward each).

    What one sample gains by a unit and another loses by it does not cancel, as it does in ``"taylor"``; near
    a minimum, where gradients sum to zero, that is all the difference. ``loss(model, sample)`` is the loss of
    one sample or of a few. Gradients of the graph's model are put back afterwards.

    Raises:
        ValueError: if ``samples`` is empty.

    Source: Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, arXiv 1906.10771;
    Liu et al., *Group Fisher Pruning*, ICML 2021, arXiv 2108.00708.
    """
    groups = graph.groups(heads="both")
    members = [m for group in groups for m in group.members if m.tensor.requires_grad]
    means = {_key(m): m.tensor.new_zeros(m.axis.size, dtype=torch.float32) for m in members}
    for count in _gradients(graph.model, loss, samples):
        for member in members:
            if member.tensor.grad is not None:
                square = per_unit(_weight(member) * _gradient(member), member).square()
                means[_key(member)] += (square - means[_key(member)]) / count
            else:
                means[_key(member)] *= (count - 1) / count
    return lambda member: means.get(_key(member))


def mean_squared_gradients(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], samples: Iterable[Any]
) -> dict[int, Tensor]:
    """Return E[g²] of every parameter (by identity) over samples; a running mean, so memory is one copy."""
    means = {id(p): torch.zeros_like(p) for p in model.parameters() if p.requires_grad}
    for count in _gradients(model, loss, samples):
        for parameter in model.parameters():
            if parameter.grad is not None:
                means[id(parameter)] += (parameter.grad.square() - means[id(parameter)]) / count
            elif id(parameter) in means:
                means[id(parameter)] -= means[id(parameter)] / count
    return means


def _gradients(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], samples: Iterable[Any]
) -> Iterator[int]:
    """Leave each sample's gradients in the model in turn, counting from 1; then put back its own."""
    held = {parameter: parameter.grad for parameter in model.parameters()}
    count = 0
    try:
        for count, sample in enumerate(samples, start=1):
            model.zero_grad(set_to_none=True)
            loss(model, sample).backward()
            yield count
    finally:
        for parameter, gradient in held.items():
            parameter.grad = gradient
    if count == 0:
        raise ValueError("`samples` is empty; a criterion of gradients needs at least one")


def _key(member: Member) -> tuple[str, int, Axis]:
    return member.name, member.dim, member.axis


@torch.no_grad()
def activation(model: nn.Module, batches: Iterable[Tensor]) -> Criterion:
    """Return the criterion mean |x|, of what linear and convolutional layers put out on ``batches``.

    Members that are not the output side of such a layer abstain.
    """
    layers = {
        name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))
    }
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            channel = -1 if isinstance(layer, nn.Linear) else 1
            rows = output.movedim(channel, -1).flatten(0, -2).abs()
            sums[name] = sums.get(name, 0) + rows.sum(dim=0)
            counts[name] = counts.get(name, 0) + rows.shape[0]

        return hook

    handles = [layer.register_forward_hook(watch(name, layer)) for name, layer in layers.items()]
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for batch in batches:
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag
    means = {name: total / counts[name] for name, total in sums.items()}
    return lambda member: _activation_of(member, means)


def _activation_of(member: Member, means: Mapping[str, Tensor]) -> Tensor | None:
    layer = member.name.rpartition(".")[0]
    if member.role not in ("out", "depthwise") or layer not in means or member.dim != 0:
        return None
    return per_position_units(means[layer], member)


CRITERIA: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "taylor": taylor,
    "taylor_per_element": taylor_per_element,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "lamp": lamp,
}

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(dim=0),
    "sum": lambda scores: scores.sum(dim=0),
    "max": lambda scores: scores.amax(dim=0),
    "prod": lambda scores: scores.prod(dim=0),
    "first": lambda scores: scores[0],
}


def _weight(member: Member) -> Tensor:
    # Half precision overflows on sums of squares; scores are always float32 or better.
    weight = member.tensor.detach()
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _gradient(member: Member) -> Tensor:
    if member.tensor.grad is None:
        raise ValueError(
            f"parameter {member.name} has no gradient; run `loss.backward()` on a few batches before scoring "
            "with a criterion that needs gradients"
        )
    return member.tensor.grad.detach()


def _rows(entries: Tensor, member: Member) -> Float[Tensor, "p k"]:
    return entries.movedim(member.dim, 0).reshape(entries.shape[member.dim], -1)


def _checked(scores: Tensor, member: Member) -> Tensor:
    if not torch.isfinite(scores).all():
        raise ValueError(f"scores of parameter {member.name} are not finite; it holds NaN or infinity")
    return scores
