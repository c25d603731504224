"""Find which convolution feeds which batch normalisation, and nothing else, by watching the data flow.

Names and the order of registration say nothing reliable; one run, or a symbolic trace, does.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torchvision.ops import FrozenBatchNorm2d

from torchard.core.surgery import flags_kept

BATCH_NORMS: tuple[type[nn.Module], ...] = (_BatchNorm, FrozenBatchNorm2d, FrozenBatchNormAct2d)
LINEAR_MAPS: tuple[type[nn.Module], ...] = (_ConvNd, nn.Linear)


@dataclass(frozen=True)
class ConvBN:
    """A linear map whose output goes into this batch norm and nowhere else, ``calls`` times a pass."""

    conv: str
    bn: str
    calls: int = 1


@dataclass(frozen=True)
class Pairs:
    """The pairs of a model in the order they run, and why other batch norms have no partner."""

    pairs: tuple[ConvBN, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ConvBN]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


def find_pairs(model: nn.Module, example: Any = None) -> Pairs:
    """Return every pair of convolution (or linear layer) and batch norm in which one feeds only the other.

    With ``example`` (a tensor, or a tuple of arguments) the model runs once, in eval mode without gradients,
    and tensors are followed by identity; this works for any model. Without, the largest submodules that
    ``torch.fx`` can trace are traced, and pairs across their borders are missed.
    """
    return _watched(model, example) if example is not None else _traced(model)


@dataclass
class _Record:
    """One tensor that a linear map produced: by whom, who normalised it, how often it was used."""

    conv: str
    tensor: Tensor
    norms: list[str] = field(default_factory=list)
    uses: int = 0


class _CountUses(TorchFunctionMode):
    """Count, for each recorded tensor, the operations that take its values."""

    def __init__(self, records: dict[int, _Record]) -> None:
        super().__init__()
        self.records = records

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(result)):  # `x.shape` and its like take nothing
            for tensor in _tensors([args, kwargs]):
                if id(tensor) in self.records:
                    self.records[id(tensor)].uses += 1
        return result


def _watched(model: nn.Module, example: Any) -> Pairs:
    records: dict[int, _Record] = {}
    order: list[str] = []
    arguments = example if isinstance(example, tuple) else (example,)
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            for handle in _recording_hooks(name, module, records, order):
                stack.callback(handle.remove)
        stack.enter_context(flags_kept(model))
        stack.enter_context(torch.no_grad())
        model.eval()
        with _CountUses(records):
            results = model(*arguments)
    for tensor in _tensors(results):
        if id(tensor) in records:
            records[id(tensor)].uses += 1
    return _paired(list(records.values()), order)


def _recording_hooks(
    name: str, module: nn.Module, records: dict[int, _Record], order: list[str]
) -> list[torch.utils.hooks.RemovableHandle]:
    if isinstance(module, LINEAR_MAPS):

        def produced(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                records[id(output)] = _Record(name, output)

        return [module.register_forward_hook(produced)]
    if isinstance(module, BATCH_NORMS):

        def normalised(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            order.append(name)
            if inputs and id(inputs[0]) in records:
                records[id(inputs[0])].norms.append(name)

        return [module.register_forward_pre_hook(normalised)]
    return []


def _paired(records: list[_Record], order: list[str]) -> Pairs:
    """Keep a pair only if it held in every call of its batch norm."""
    calls = Counter((record.conv, norm) for record in records for norm in record.norms)
    shared = {
        norm for record in records for norm in record.norms if record.uses != 1 or len(record.norms) != 1
    }
    by_norm: dict[str, list[str]] = defaultdict(list)
    for conv, norm in calls:
        by_norm[norm].append(conv)
    total = Counter(order)
    pairs, skipped = [], {}
    for norm in dict.fromkeys(order):
        partners = by_norm.get(norm, [])
        if len(partners) != 1 or calls[partners[0], norm] != total[norm]:
            skipped[norm] = "its input is not always the output of one and the same convolution"
        elif norm in shared:
            skipped[norm] = f"the output of {partners[0]} is used elsewhere too"
        else:
            pairs.append(ConvBN(partners[0], norm, total[norm]))
    return Pairs(tuple(pairs), skipped)


class _Tracer(fx.Tracer):
    """Takes layers and whatever timm marks as untraceable as leaves."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaves = (*LINEAR_MAPS, *BATCH_NORMS, *get_notrace_modules())
        return isinstance(m, leaves) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> Pairs:
    pairs: list[ConvBN] = []
    skipped: dict[str, str] = {}
    for prefix, graph in _graphs(model, ""):
        found = _pairs_of_graph(model.get_submodule(prefix) if prefix else model, graph)
        start = f"{prefix}." if prefix else ""
        pairs += [ConvBN(start + pair.conv, start + pair.bn, pair.calls) for pair in found.pairs]
        skipped |= {start + norm: reason for norm, reason in found.skipped.items()}
    seen = {pair.bn for pair in pairs} | skipped.keys()
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and name not in seen:
            skipped[name] = "torch.fx cannot trace what is around it; give an example input"
    return Pairs(tuple(pairs), skipped)


def _graphs(module: nn.Module, prefix: str) -> Iterator[tuple[str, fx.Graph]]:
    """Graphs of the largest traceable submodules that contain a batch norm."""
    if isinstance(module, (*BATCH_NORMS, *LINEAR_MAPS)):
        return
    if not any(isinstance(inner, BATCH_NORMS) for inner in module.modules()):
        return
    graph = _try_trace(module)
    if graph is not None:
        yield prefix, graph
        return
    for name, child in module.named_children():
        yield from _graphs(child, f"{prefix}.{name}" if prefix else name)


def _try_trace(module: nn.Module) -> fx.Graph | None:
    try:
        return _Tracer().trace(module)
    except Exception:  # whatever the module's own code raises when fed a proxy
        return None


def _pairs_of_graph(module: nn.Module, graph: fx.Graph) -> Pairs:
    modules = dict(module.named_modules())
    is_norm: Callable[[fx.Node], bool] = lambda node: (  # noqa: E731
        node.op == "call_module" and isinstance(modules[str(node.target)], BATCH_NORMS)
    )
    norms = [node for node in graph.nodes if is_norm(node)]
    records: dict[fx.Node, _Record] = {}
    for node in norms:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        if isinstance(modules[str(source.target)], LINEAR_MAPS):
            record = _Record(str(source.target), torch.empty(0), uses=len(source.users))
            records.setdefault(source, record).norms.append(str(node.target))
    return _paired(list(records.values()), [str(node.target) for node in norms])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
