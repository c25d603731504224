"""PyPI torch-pruning on the zoo's models: does it prune them, and rightly?

It gets what its users give it: the example, the way to call the model, and the layers whose output is the
model's; no hints on heads or bare parameters, which we do not get either. Graph time is, as ours, that of
the dependency graph and its groups, the better of two.

Its removed indices are set to zero in a copy of the original; where no operation counts zeros (no layer norm,
no softmax over what was removed), the answers should agree. ``differs`` says they do not: a reason to look,
not yet a verdict, since the indices are gathered from its groups one by one.
"""

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from experiments.prune.subject import Subject, outputs
from torchard.prune.depgraph import trace
from torchard.prune.depgraph.graph import owner_path
from torchard.prune.depgraph.replay import perturb_
from torchard.prune.depgraph.tracer import call, flat_outputs

Removed = dict[tuple[str, str], set[int]]  # (module, side) → channels of the original


def examine(subject: Subject, *, comparable: bool) -> dict[str, Any]:
    """Prune a copy of the subject at half with random units, and return a row."""
    model = copy.deepcopy(subject.model).eval()
    perturb_(model)
    whole = copy.deepcopy(model)
    shapes = [out.shape for out in outputs(subject, model)]
    last = _output_layers(model, subject)

    def forward(network: nn.Module, _inputs: Any) -> list[Tensor]:
        return flat_outputs(call(network, subject.inputs, subject.forward))

    times = []
    for _ in range(2):
        start = time.perf_counter()
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(model, _as_tuple(subject.inputs), forward_fn=forward, verbose=False)
        groups = len(list(graph.get_all_groups(ignored_layers=last)))
        times.append(time.perf_counter() - start)
    row: dict[str, Any] = {"trace": min(times), "groups": groups}
    pruner = torch_pruning.pruner.BasePruner(
        model,
        _as_tuple(subject.inputs),
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=0.5,
        ignored_layers=last,
        forward_fn=forward,
    )
    before = sum(p.numel() for p in model.parameters())
    removed = _prune(model, pruner)
    row["params"] = sum(p.numel() for p in model.parameters()) / before
    if [out.shape for out in outputs(subject, model)] != shapes:
        return {**row, "status": "failed", "reason": "the output changed its shape"}
    if row["params"] == 1:
        return {**row, "status": "refused", "reason": "nothing was pruned"}
    if not comparable:
        return {**row, "status": "pruned, unchecked"}
    try:
        _silence_(whole, removed)
    except (IndexError, RuntimeError):  # of a layer whose indices cannot be told: not the rival's fault
        return {**row, "status": "pruned, unchecked"}
    row["error"] = _difference(outputs(subject, model), outputs(subject, whole))
    return {**row, "status": "pruned" if row["error"] < 1e-4 else "differs"}


def _as_tuple(inputs: Any) -> Any:
    return inputs if isinstance(inputs, (Tensor, Mapping)) else tuple(inputs)


def _output_layers(model: nn.Module, subject: Subject) -> list[nn.Module]:
    """Layers whose output is the model's: the rival must be told, we must not."""
    frozen = trace(model, subject.inputs, forward=subject.forward).frozen()
    names = [place.partition(":")[0] for place, why in frozen.items() if why == ["model output"]]
    return [model.get_submodule(owner_path(name)) for name in names if name.endswith("weight")]


def _prune(model: nn.Module, pruner: Any) -> Removed:
    """Carry out one step, writing down which channels of the original each module lost."""
    names = {module: name for name, module in model.named_modules()}
    left: dict[tuple[str, str], list[int]] = {}
    removed: Removed = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            module = dependency.target.module
            side = "out" if "out" in dependency.handler.__name__ else "in"
            key = (names.get(module, ""), side)
            if key[0]:
                present = left.setdefault(key, list(range(_channels(module, side))))
                gone = {present[index] for index in indices if index < len(present)}
                removed.setdefault(key, set()).update(gone)
        group.prune()
        for key, gone in removed.items():
            if key in left:
                left[key] = [index for index in left[key] if index not in gone]
    return removed


def _channels(module: nn.Module, side: str) -> int:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return 0
    return weight.shape[0 if side == "out" or weight.dim() == 1 else 1]


@torch.no_grad()
def _silence_(model: nn.Module, removed: Removed) -> None:
    """Set the removed channels of the original to zero."""
    modules = dict(model.named_modules())
    for (name, side), gone in removed.items():
        module, index = modules[name], torch.tensor(sorted(gone), dtype=torch.long)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or not len(index):
            continue
        transposed = bool(getattr(module, "transposed", False))
        if weight.dim() > 1 and (side == "in") != transposed and getattr(module, "groups", 1) == 1:
            weight.index_fill_(1, index, 0)
            continue
        weight.index_fill_(0, index, 0)
        for other in ("bias", "running_mean"):
            if isinstance(getattr(module, other, None), Tensor):
                getattr(module, other).index_fill_(0, index, 0)


def _difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(one, other, strict=True)
    )
