"""Run a model once and write down what its operations say about dimensions."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from torchard.prune.depgraph import rules as _rules  # noqa: F401  (registers every rule)
from torchard.prune.depgraph.algebra import freeze
from torchard.prune.depgraph.graph import DimGraph
from torchard.prune.depgraph.ledger import Ledger, Step
from torchard.prune.depgraph.rules.factories import fixed_results
from torchard.prune.depgraph.rules.registry import Op, as_results, bind_arguments, find_rule
from torchard.prune.depgraph.sizes import Notebook
from torchard.prune.depgraph.watching import Watcher, tracked_attributes, transparent_python

Examples = Tensor | Sequence[Any] | Mapping[str, Any]
Mode = Literal["auto", "real", "fake"]

_LARGE = 2 << 30  # bytes of parameters from which only shapes are computed


def trace(
    model: nn.Module,
    example_inputs: Examples,
    *,
    forward: Callable[[nn.Module], Any] | None = None,
    outputs_prunable: Sequence[int] = (),
    mode: Mode = "auto",
) -> DimGraph:
    """Return which elements of which parameters of ``model`` depend on each other.

    One forward pass in eval mode without gradients, at most a few times as long as usual; every activation
    is held until it ends. The model is left as it was, also when it fails. ``example_inputs`` is a tensor, a
    sequence of positional or a mapping of keyword arguments; ``forward(model)`` replaces the call itself.
    ``outputs_prunable`` counts the output tensors whose features may be removed too. ``mode="fake"`` computes
    shapes only, without the memory and time of a pass: for models too big to run, also on the meta device.
    It cannot follow code that looks at values. ``"auto"`` takes it for parameters above two gigabytes, unless
    that fails.

    Raises:
        ValueError: if the model has no parameters, is of a kind that cannot be cut (scripted, quantised,
            sharded), or does not run on the example.
    """
    check_model(model)
    if mode == "auto":
        mode = "fake" if _is_large(model) else "real"
        if mode == "fake" and not any(parameter.is_meta for parameter in model.parameters()):
            with contextlib.suppress(ValueError):
                return _traced(model, example_inputs, forward, outputs_prunable, FakeTensorMode)
            mode = "real"
    kind = FakeTensorMode if mode == "fake" else None
    return _traced(model, example_inputs, forward, outputs_prunable, kind)


def _traced(
    model: nn.Module,
    example_inputs: Examples,
    forward: Callable[[nn.Module], Any] | None,
    outputs_prunable: Sequence[int],
    fake: type[FakeTensorMode] | None,
) -> DimGraph:
    ledger, notebook = Ledger(), Notebook()
    shapes = fake(allow_non_fake_inputs=True) if fake is not None else None
    with untouched(model), quiet_kernels(), torch.no_grad(), shapes or contextlib.nullcontext():
        model.eval()
        names = _record_parameters(ledger, model)
        if shapes is not None:
            example_inputs = tree_map(_without_data(shapes), example_inputs)
        _record_inputs(ledger, example_inputs)
        try:
            watching = Watcher(ledger, notebook), _Recorder(ledger)
            with transparent_python(), tracked_attributes(model, notebook), watching[0], watching[1]:
                outputs = call(model, example_inputs, forward)
        except Exception as error:
            kind = type(model).__name__
            what = f"{type(error).__name__}: {error}"
            way = " on tensors without data; try `mode='real'`" if shapes is not None else ""
            raise ValueError(f"`example_inputs` does not run through {kind}{way}: {what}") from error
        _freeze_outputs(ledger, outputs, outputs_prunable)
        if any(id(parameter) not in ledger.touched for parameter in model.parameters()):
            _look_again(model, ledger, notebook, lambda: call(model, example_inputs, forward))
    return DimGraph.from_ledger(model, ledger, names, notebook)


def _is_large(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    return any(p.is_meta for p in parameters) or sum(p.nbytes for p in parameters) > _LARGE


def _without_data(shapes: FakeTensorMode) -> Callable[[Any], Any]:
    return lambda leaf: shapes.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf


def _look_again(model: nn.Module, ledger: Ledger, notebook: Notebook, run: Callable[[], Any]) -> None:
    """Run in training mode too, for parameters only used there (auxiliary heads).

    What it finds binds further; if it fails, those parameters are reported as never used.
    """
    ledger.training = True
    watching = Watcher(ledger, notebook), _Recorder(ledger)
    model.train()
    with contextlib.suppress(Exception), transparent_python(), tracked_attributes(model, notebook):
        with watching[0], watching[1]:
            outputs = run()
        _freeze_outputs(ledger, outputs, ())


def call(
    model: nn.Module, example_inputs: Examples, forward: Callable[[nn.Module], Any] | None = None
) -> Any:
    """Run ``model`` on example inputs in any of the forms :func:`trace` takes."""
    if forward is not None:
        return forward(model)
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    if isinstance(example_inputs, Tensor):
        return model(example_inputs)
    return model(*example_inputs)


def check_model(model: nn.Module) -> None:
    """Refuse models whose parameters cannot be cut.

    Raises:
        ValueError: naming the kind of model and the way out.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a scripted model cannot be pruned; prune the `nn.Module` it was made from")
    if hasattr(model, "_orig_mod"):
        raise ValueError("a compiled model cannot be pruned; prune `model._orig_mod` and compile the result")
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_quantized for tensor in tensors):
        raise ValueError("a quantised model cannot be pruned; prune first and quantise the result")
    for tensor in tensors:
        if type(tensor).__name__ in ("DTensor", "FlatParameter", "ShardedTensor"):
            raise ValueError("a sharded model cannot be pruned; gather it on one process first")
        if nn.parameter.is_lazy(tensor):
            raise ValueError("a lazy module has no shapes yet; run the model once before pruning")
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters to prune")


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back the training flags, buffers, cached tensors and random state of ``model`` at the end."""
    flags = {module: module.training for module in model.modules()}
    attributes = {module: _plain_state(module) for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    slots = {module: dict(module._buffers) for module in model.modules()}
    with torch.random.fork_rng(devices=_devices(model)):
        try:
            yield
        finally:
            for module, training in flags.items():
                module.training = training
                _restore(module, attributes[module])
                module._buffers.clear()
                module._buffers.update(slots[module])
            with torch.no_grad():
                for buffer, value in buffers:
                    if not buffer.is_meta:
                        buffer.data.copy_(value)


def _devices(model: nn.Module) -> list[int]:
    found = {parameter.device for parameter in model.parameters()}
    return [device.index or 0 for device in found if device.type == "cuda"]


_OWN = {"_parameters", "_buffers", "_modules", "training"}


def _plain_state(module: nn.Module) -> dict[str, Any]:
    """Everything a forward pass may change besides parameters: attributes, and what dicts and lists hold."""
    state = {}
    for name, value in module.__dict__.items():
        if name in _OWN or "hook" in name:
            continue
        state[name] = (value, value.copy() if type(value) in (dict, list) else None)
    return state


def _restore(module: nn.Module, state: dict[str, Any]) -> None:
    for name in [name for name in module.__dict__ if name not in state and name not in _OWN]:
        if "hook" not in name:
            del module.__dict__[name]
    for name, (value, content) in state.items():
        if type(value) is dict:
            value.clear()
            value.update(content)
        elif type(value) is list:
            value[:] = content
        module.__dict__[name] = value


@contextmanager
def quiet_kernels() -> Iterator[None]:
    """Switch off the fused encoder path, which hides whole layers in one operation."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _record_parameters(ledger: Ledger, model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer dimension starts as one fresh axis; shared ones are recorded once."""
    names: dict[str, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in ledger.known:
            ledger.record_new(tensor)
            names[name] = tensor
    return names


def _record_inputs(ledger: Ledger, example_inputs: Examples) -> None:
    for leaf in tree_leaves(dict(example_inputs) if isinstance(example_inputs, Mapping) else example_inputs):
        if isinstance(leaf, Tensor):
            ledger.record_constant(leaf, "model input")


def _freeze_outputs(ledger: Ledger, outputs: Any, prunable: Sequence[int]) -> None:
    tensors = [leaf for leaf in flat_outputs(outputs) if isinstance(leaf, Tensor)]
    for place, tensor in enumerate(tensors):
        if place not in prunable:
            for node in ledger.dims(tensor):
                freeze(node, "model output")


def flat_outputs(outputs: Any) -> list[Any]:
    """Tensors in nested containers, and in objects that are not containers but hold tensors."""
    found: list[Any] = []
    pending, seen = [outputs], set()
    while pending:
        value = pending.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            pending += list(value.values())
        elif isinstance(value, (list, tuple, set)):
            pending += list(value)
        elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
            pending += list(vars(value).values())
        else:
            pending += [leaf for leaf in tree_flatten(value)[0] if leaf is not value]
    return found


# Whether these appear depends on who else holds a tensor; they are not counted when two runs are compared.
UNCOUNTED = {"aten.detach", "aten.alias", "aten.lift_fresh"}


_QUESTIONS = {"prim::device", "prim::layout"}  # asked of tensors without data; they compute nothing


class _Recorder(TorchDispatchMode):
    """Apply the rule of each ATen operation to the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in _QUESTIONS:
            return out
        arguments = bind_arguments(func, args, kwargs or {})
        record(func, arguments, out, self.ledger)
        return out


def record(func: Any, arguments: dict[str, Any], out: Any, ledger: Ledger) -> None:
    """Write down the dimensions of what one operation returned."""
    op = Op(func, arguments, out, ledger)
    function = find_rule(func)
    outcome = function(op) if function is not None else _unknown(op)
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    known = [dims for dims in as_results(outcome, out) if dims is not None]
    for tensor, dims in zip(tensors, known, strict=True):
        ledger.record(tensor, dims)
    if not ledger.training:
        counted = op.name not in UNCOUNTED
        ledger.steps.append(Step(ledger.index, op.name, func, arguments, out, counted))
        if counted:
            ledger.operations.append(op.name)


def _unknown(op: Op) -> Any:
    reason = f"unknown op: {op.name}"
    op.ledger.unknown[op.name] += 1
    for tensor in op.tensors():
        for node in op.ledger.dims(tensor):
            op.fix(node, reason)
    return fixed_results(op)
