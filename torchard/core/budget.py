"""What a model costs in parameters, operations, bytes and milliseconds, and how users write limits on it."""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from torchard.core.errors import UsageError
from torchard.core.surgery import flags_kept

Quantity = Literal["macs", "params", "latency"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median and the 95th percentile over ``repeats`` calls."""

    median_ms: float
    p95_ms: float
    repeats: int
    threads: int

    def __str__(self) -> str:
        return f"{self.median_ms:.2f} ms (p95 {self.p95_ms:.2f})"

    def to_json(self) -> dict[str, float]:
        return {"median": self.median_ms, "p95": self.p95_ms}


@dataclass(frozen=True)
class LatencyComparison:
    """Two callables timed in turn within one run, and how many times faster the second is."""

    before: Latency
    after: Latency
    speedup: float

    def __str__(self) -> str:
        return f"{self.before} → {self.after}: {self.speedup:.2f}× as fast"


@dataclass(frozen=True)
class Budget:
    """What one forward pass of a model costs, and what the model weighs."""

    params: int
    macs: int
    bytes: int
    latency: Latency

    def __str__(self) -> str:
        return f"{human(self.params)} params, {human(self.macs)} MACs, {human(self.bytes)}B, {self.latency}"

    def to_json(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "macs": self.macs,
            "bytes": self.bytes,
            "latency_ms": self.latency.to_json(),
        }


def measure(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    warmup: int = 5,
    repeats: int = 30,
    threads: int | None = None,
) -> Budget:
    """Return all costs of ``model`` on ``example``: of the whole batch, so give it one sample."""
    return Budget(
        params=count_params(model),
        macs=count_macs(model, example),
        bytes=file_bytes(model),
        latency=latency(model, example, warmup=warmup, repeats=repeats, threads=threads),
    )


def count_params(model: nn.Module) -> int:
    """Return the number of parameters; one that is shared counts once, buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Tensor | tuple[Any, ...]) -> int:
    """Return the multiply-accumulates of one forward pass in eval mode on ``example``, batch included.

    Counted by `torch.utils.flop_counter` (two operations each): convolutions, matrix products, attention
    and recurrent layers; additions, normalisation and activations are free, as in the tables of papers. The
    model is left as it was.
    """
    # On the CPU attention and LSTMs run through operators the counter does not know and would count as
    # nothing; the fused path of `nn.MultiheadAttention` hides its products the same way.
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
            torch.ops.aten.mkldnn_rnn_layer: _recurrent_operations,
        },
    )
    with _inference(model), _no_fused_attention():
        # The counter hooks the gradients of what modules are given, and fails without a graph on parameters
        # that are passed on (class tokens); `_inference` puts the flags back.
        model.requires_grad_(False)
        with counter:
            model(*_as_tuple(example))
    return counter.get_total_flops() // 2


def latency(
    model: Callable[..., Any],
    example: Tensor | tuple[Any, ...],
    *,
    warmup: int = 5,
    repeats: int = 30,
    threads: int | None = None,
) -> Latency:
    """Return how long one call of a model (in eval mode) or of any callable takes.

    The first ``warmup`` calls are not counted. ``threads`` sets torch's threads for the while (default:
    as they are). Two models are compared by :func:`compare_latency`, not by two calls of this.
    """
    _check_counts(warmup, repeats)
    with _inference(model), _threads(threads) as used:
        _times([model], example, warmup)
        (times,) = _times([model], example, repeats)
    return _summary(times, used)


def compare_latency(
    before: Callable[..., Any],
    after: Callable[..., Any],
    example: Tensor | tuple[Any, ...],
    *,
    warmup: int = 5,
    repeats: int = 30,
    threads: int | None = None,
) -> LatencyComparison:
    """Time two models in turn, call by call, so that a change of the machine's load meets both.

    The speed-up is the median over the pairs of calls, which a busy moment hardly moves.
    """
    _check_counts(warmup, repeats)
    with _inference(before), _inference(after), _threads(threads) as used:
        _times([before, after], example, warmup)
        first, second = _times([before, after], example, repeats)
    speedup = statistics.median(a / b for a, b in zip(first, second, strict=True))
    return LatencyComparison(_summary(first, used), _summary(second, used), speedup)


def activation_bytes(model: nn.Module, example: Tensor | tuple[Any, ...]) -> int:
    """Return the bytes autograd keeps between the forward and the backward pass of ``model`` on ``example``.

    In the model's present mode (training or eval, whatever is frozen). Each storage counts once; parameters
    and buffers do not count, the input does where a layer keeps it. Buffers such as running statistics
    are left as they were.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    own = {_address(tensor) for tensor in (*model.parameters(), *buffers.values())}
    # The storages themselves are held, not only their addresses: a freed address may be given out again.
    kept: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept[_address(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = torch.func.functional_call(model, buffers, _as_tuple(example))
    del output
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def file_bytes(model: nn.Module) -> int:
    """Return the bytes of all tensors in the state dict, shared ones once: the file without its header."""
    tensors = model.state_dict().values()
    return sum({(tensor.data_ptr(), tensor.shape): tensor.nbytes for tensor in tensors}.values())


@dataclass(frozen=True)
class Limit:
    """A limit as the user wrote it: a share of what the model costs now, or an amount.

    Its text says it exactly: what parses it gives it back.
    """

    quantity: Quantity
    value: float
    relative: bool

    def __str__(self) -> str:
        if self.relative:
            return f"{_decimal(self.value)}x"
        if self.quantity == "latency":
            return f"{_decimal(self.value)}ms"
        size, unit = next(((size, unit) for size, unit in _LARGEST if self.value >= size), (1e3, "k"))
        return f"{_decimal(self.value / size)}{unit}"

    def amount(self, before: float | int) -> float:
        """Return the limit as an amount (MACs, parameters or milliseconds), given the cost ``before``."""
        return self.value * before if self.relative else self.value


def parse_macs(text: str) -> Limit:
    """Return the limit written as ``"0.5x"`` (half of what it is) or ``"120M"`` multiply-accumulates.

    Raises:
        UsageError: if it is neither; a bare number is refused, since its unit would be a guess.
    """
    return _limit(text, "macs", "--macs", _COUNTS, "0.5x (half of the model's) or 120M")


def parse_params(text: str) -> Limit:
    """Return the limit written as ``"2M"`` or ``"0.25x"`` parameters.

    Raises:
        UsageError: if it is neither.
    """
    return _limit(text, "params", "--params", _COUNTS, "2M or 0.25x (a quarter of the model's)")


def parse_latency(text: str) -> Limit:
    """Return the limit written as ``"8ms"``, ``"0.1s"`` or ``"0.5x"``, in milliseconds.

    Raises:
        UsageError: if it is none of these.
    """
    return _limit(text, "latency", "--latency", _DURATIONS, "8ms, 0.1s or 0.5x (twice as fast)")


def parse_seconds(text: str) -> float:
    """Return the seconds of ``"90s"``, ``"10m"``, ``"1h30m"`` or ``"1.5h"``.

    Raises:
        UsageError: if a number has no unit, a unit comes twice or out of order, or the sum is zero.
    """
    match = _TIME.fullmatch(text.strip())
    parts = match.groupdict() if match else {}
    seconds = sum(
        float(parts[unit] or 0) * size for unit, size in (("h", 3600), ("m", 60), ("s", 1)) if parts
    )
    if not (0 < seconds < math.inf):
        raise UsageError(f"--time {text!r} is not a time. Write for example 90s, 10m or 1h30m.")
    return seconds


def human(count: float | int) -> str:
    """Return a count for people: ``"3.4 M"``, ``"391 M"``, ``"1.2 G"``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * size:
            scaled = count / size
            return f"{scaled:.0f} {unit}" if scaled >= 99.5 else f"{scaled:.3g} {unit}"
    return f"{count:.3g} "


_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_LARGEST = ((1e9, "G"), (1e6, "M"))
_COUNTS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_DURATIONS = {"ms": 1.0, "s": 1e3}
_UNIT_SECONDS = {"h": 3600, "m": 60, "s": 1}
_TIME = re.compile(rf"(?:(?P<h>{_NUMBER[1:-1]})h)?(?:(?P<m>{_NUMBER[1:-1]})m)?(?:(?P<s>{_NUMBER[1:-1]})s)?")


def _limit(text: str, quantity: Quantity, option: str, units: dict[str, float], examples: str) -> Limit:
    match = re.fullmatch(rf"{_NUMBER}\s*([a-z]+)", text.strip().lower())
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if unit == "x" and 0 < number <= 1:
        return Limit(quantity, number, relative=True)
    if unit in units and 0 < number * units[unit] < math.inf:
        amount = number * units[unit]
        whole = float(max(1, round(amount)))  # there is no part of a parameter
        return Limit(quantity, amount if quantity == "latency" else whole, relative=False)
    raise UsageError(f"{option} {text!r} is not a limit. Write for example {examples}.")


def _decimal(value: float) -> str:
    """The shortest decimal that is this number, without an exponent."""
    return np.format_float_positional(value, trim="-")


def _as_tuple(example: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _attention_operations(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any
) -> int:
    return sdpa_flop(query, key, value)


def _recurrent_operations(
    sequence: tuple[int, ...], inputs: tuple[int, ...], hidden: tuple[int, ...], *_: Any, **__: Any
) -> int:
    """One layer in one direction: both weights meet every step of every sample."""
    return 2 * math.prod(sequence[:2]) * (math.prod(inputs) + math.prod(hidden))


@contextmanager
def _inference(model: Callable[..., Any]) -> Iterator[None]:
    """Eval mode without gradients for a module; only the latter for another callable."""
    with torch.no_grad():
        if not isinstance(model, nn.Module):
            yield
            return
        with flags_kept(model):
            model.eval()
            yield


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)


def _check_counts(warmup: int, repeats: int) -> None:
    if warmup < 0 or repeats < 1:
        raise ValueError(
            f"`warmup={warmup}` must be at least 0 and `repeats={repeats}` at least 1 to time anything."
        )


def _times(calls: list[Callable[..., Any]], example: Any, repeats: int) -> list[list[float]]:
    """Milliseconds of each call, the callables taking turns."""
    arguments = _as_tuple(example)
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call(*arguments)
            _wait_for(arguments)
            taken.append(1e3 * (time.perf_counter() - start))
    return times


def _wait_for(arguments: tuple[Any, ...]) -> None:
    """Accelerators answer before they are done; the CPU does not."""
    if any(isinstance(argument, Tensor) and argument.is_cuda for argument in arguments):
        torch.cuda.synchronize()


def _summary(times: list[float], threads: int) -> Latency:
    ordered = sorted(times)
    p95 = ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)]
    return Latency(statistics.median(ordered), p95, len(ordered), threads)
