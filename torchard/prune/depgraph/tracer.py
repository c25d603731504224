"""Run a model once and write down what its operations say about dimensions."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from torchard.prune.depgraph.hollow import Hollow
from torchard.prune.depgraph.ledger import Ledger, Step, tensors_in
from torchard.prune.depgraph.rules.factories import fixed_results
from torchard.prune.depgraph.rules.registry import Op, as_results, bind_arguments, find_rule, name_of
from torchard.prune.depgraph.sizes import Notebook
from torchard.prune.depgraph.watching import Watcher, tracked_attributes, transparent_python

Examples = Tensor | Sequence[Any] | Mapping[str, Any]
Mode = Literal["auto", "hollow", "real", "fake"]

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

    One forward pass in eval mode without gradients; every activation is held until it ends. The model is
    left as it was, also when it fails. ``example_inputs`` is a tensor, a sequence of positional or a mapping
    of keyword arguments; ``forward(model)`` replaces the call itself. ``outputs_prunable`` counts the output
    tensors whose features may be removed too.

    ``mode`` says how much of the pass is computed. ``"hollow"`` leaves out products, convolutions and
    normalisations of what ``example_inputs`` becomes, whose sizes are known without them: the time then
    hardly depends on how large the model is. ``"fake"`` allocates nothing at all, also on the meta device,
    and takes longer for a small model. Neither can follow code that looks at values, for which there is
    ``"real"``, a whole pass. ``"auto"`` takes hollow, above two gigabytes of parameters fake, and a real
    pass where that fails.

    Raises:
        ValueError: if the model has no parameters, is of a kind that cannot be cut (scripted, quantised,
            sharded), or does not run on the example.
    """
    modules = dict(model.named_modules())
    tensors = _tensors(modules)
    parameters = [tensor for tensor in tensors.values() if isinstance(tensor, nn.Parameter)]
    _check(model, tensors.values())
    traced = functools.partial(_traced, model, modules, tensors, example_inputs, forward, outputs_prunable)
    if mode != "auto":
        return traced(mode)
    on_meta = any(parameter.is_meta for parameter in parameters)
    large = sum(parameter.nbytes for parameter in parameters) > _LARGE
    quick: Mode = "fake" if on_meta or large else "hollow"
    if on_meta:
        return traced(quick)
    with contextlib.suppress(ValueError):
        return traced(quick)
    return traced("real")


def _traced(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    tensors: dict[str, Tensor],
    example_inputs: Examples,
    forward: Callable[[nn.Module], Any] | None,
    outputs_prunable: Sequence[int],
    mode: Mode,
) -> DimGraph:
    ledger, notebook = Ledger(), Notebook()
    shapes = FakeTensorMode(allow_non_fake_inputs=True) if mode == "fake" else None
    hollow: Hollow | None = None

    @contextmanager
    def watched() -> Iterator[None]:
        watching = Watcher(ledger, notebook, hollow), _Recorder(ledger, hollow)
        with transparent_python(), tracked_attributes(modules, notebook), watching[0], watching[1]:
            yield

    with untouched(model), quiet_kernels(), torch.no_grad(), shapes or contextlib.nullcontext():
        model.eval()
        for tensor in tensors.values():
            ledger.record_new(tensor)
        if shapes is not None:
            example_inputs = tree_map(_without_data(shapes), example_inputs)
        inputs = _record_inputs(ledger, example_inputs)
        hollow = Hollow(inputs) if mode == "hollow" else None
        try:
            with watched():
                outputs = call(model, example_inputs, forward)
        except Exception as error:
            kind = type(model).__name__
            what = f"{type(error).__name__}: {error}"
            way = "" if mode == "real" else " on tensors without data; try `mode='real'`"
            raise ValueError(f"`example_inputs` does not run through {kind}{way}: {what}") from error
        _freeze_outputs(ledger, outputs, outputs_prunable)
        if any(id(t) not in ledger.touched for t in tensors.values() if isinstance(t, nn.Parameter)):
            # Some may be used in training only (auxiliary heads). What a pass in training mode finds binds
            # further; if it fails, these parameters are reported as never used.
            ledger.training = True
            model.train()
            with contextlib.suppress(Exception):
                with watched():
                    outputs = call(model, example_inputs, forward)
                _freeze_outputs(ledger, outputs, ())
    if hollow is not None and hollow.looked_at:
        # Said again here, for code that goes on after an exception.
        raise ValueError(f"{type(model).__name__} depends on values ({hollow.looked_at}); try `mode='real'`")
    return DimGraph.from_ledger(model, modules, ledger, tensors, notebook)


def _tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and then buffers, each under its first name only."""
    tables: list[tuple[str, Mapping[str, Tensor | None]]] = [
        *((path, module._parameters) for path, module in modules.items()),
        *((path, module._buffers) for path, module in modules.items()),
    ]
    found: dict[int, tuple[str, Tensor]] = {}
    for path, table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                found.setdefault(id(tensor), (f"{path}.{name}" if path else name, tensor))
    return dict(found.values())


def _without_data(shapes: FakeTensorMode) -> Callable[[Any], Any]:
    return lambda leaf: shapes.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf


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


def _check(model: nn.Module, tensors: Collection[Tensor]) -> None:
    """Refuse models whose parameters cannot be cut.

    Raises:
        ValueError: naming the kind of model and the way out.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a scripted model cannot be pruned; prune the `nn.Module` it was made from")
    if hasattr(model, "_orig_mod"):
        raise ValueError("a compiled model cannot be pruned; prune `model._orig_mod` and compile the result")
    if any(tensor.is_quantized for tensor in tensors):
        raise ValueError("a quantised model cannot be pruned; prune first and quantise the result")
    for tensor in tensors:
        if type(tensor).__name__ in ("DTensor", "FlatParameter", "ShardedTensor"):
            raise ValueError("a sharded model cannot be pruned; gather it on one process first")
        if nn.parameter.is_lazy(tensor):
            raise ValueError("a lazy module has no shapes yet; run the model once before pruning")
    if not any(isinstance(tensor, nn.Parameter) for tensor in tensors):
        raise ValueError(f"{type(model).__name__} has no parameters to prune")


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back the training flags, buffers, cached tensors and random state of ``model`` at the end."""
    modules = list(model.modules())
    flags = [module.training for module in modules]
    attributes = [_plain_state(module) for module in modules]
    slots = [dict(module._buffers) for module in modules]
    held = {id(buffer): buffer for slot in slots for buffer in slot.values() if buffer is not None}
    buffers = [(buffer, buffer.detach().clone()) for buffer in held.values()]
    with torch.random.fork_rng(devices=_devices(model)):
        try:
            yield
        finally:
            for module, training, state, slot in zip(modules, flags, attributes, slots):
                if module.training != training:
                    module.training = training
                _restore(module, state)
                module._buffers.clear()
                module._buffers.update(slot)
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


def _record_inputs(ledger: Ledger, example_inputs: Examples) -> list[Tensor]:
    given = tree_leaves(dict(example_inputs) if isinstance(example_inputs, Mapping) else example_inputs)
    inputs = [leaf for leaf in given if isinstance(leaf, Tensor)]
    for tensor in inputs:
        ledger.record_constant(tensor, "model input")
    return inputs


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


_QUESTIONS = {"prim.device", "prim.layout"}  # asked of tensors without data; they compute nothing


class _Recorder(TorchDispatchMode):
    """Run each ATen operation, or what stands in for it, and apply its rule to the ledger."""

    def __init__(self, ledger: Ledger, hollow: Hollow | None) -> None:
        super().__init__()
        self.ledger, self.hollow = ledger, hollow

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would load its compiler, to no end

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, name_of(func)
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        arguments = bind_arguments(func, args, kwargs)
        operands = tensors_in(arguments.values())
        if self.hollow is not None:
            out = self.hollow.call(func, name, args, kwargs, arguments, operands)
        else:
            out = func(*args, **kwargs)
        record(Op(func, name, arguments, operands, out, self.ledger))
        return out


def record(op: Op) -> None:
    """Write down the dimensions of what one operation returned."""
    ledger, function = op.ledger, find_rule(op.func)
    outcome = function(op) if function is not None else _unknown(op)
    results = tensors_in((op.out,))
    known = [dims for dims in as_results(outcome, op.out) if dims is not None]
    for tensor, dims in zip(results, known, strict=True):
        ledger.record(tensor, dims)
    if not ledger.training:
        counted = op.name not in UNCOUNTED
        ledger.steps.append(Step(ledger.index, op.name, op.func, op.arguments, op.operands, results, counted))
        if counted:
            ledger.operations.append(op.name)


def _unknown(op: Op) -> Any:
    reason = f"unknown op: {op.name}"
    op.ledger.unknown[op.name] += 1
    for tensor in op.operands:
        for node in op.ledger.dims(tensor):
            op.fix(node, reason)
    return fixed_results(op)
