"""How long one image takes, several models measured in turn within one run."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torchard.core.budget import Latency
from torchard.core.data import InputSpec
from torchard.core.surgery import flags_kept
from torchard.export.standalone import open_model

_BLOCK = 5


def latencies(
    models: Mapping[str, nn.Module | Path],
    spec: InputSpec,
    *,
    rounds: int = 8,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Return what one image costs each model: modules in PyTorch, paths to ``.onnx`` files in ONNX Runtime.

    The models take turns, in blocks of five calls after one that is not counted (the thread pool of the one
    before still spins), so that a busy moment of the machine meets all of them. All use `threads` (default:
    as many as torch now does). Preprocessing is not counted.
    """
    if rounds < 1:
        raise ValueError(f"`rounds={rounds}` must be at least 1 to time anything.")
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        used = stack.enter_context(_torch_threads(threads))
        stack.enter_context(torch.inference_mode())
        for module in (model for model in models.values() if isinstance(model, nn.Module)):
            stack.enter_context(flags_kept(module))
            module.eval()
        calls = {name: _call(model, spec, used) for name, model in models.items()}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name] += _block(call)
    return {name: _summary(taken, used) for name, taken in times.items()}


def _call(model: nn.Module | Path, spec: InputSpec, threads: int) -> Callable[[], object]:
    image = np.zeros((1, 3, *spec.size), np.float32)
    if isinstance(model, Path):
        session = open_model(model, threads=threads).session
        return lambda: session.run(["logits"], {"images": image})
    example = torch.from_numpy(image).to(next(model.parameters()))
    return lambda: model(example)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)


def _block(call: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(_BLOCK + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def _summary(times: list[float], threads: int) -> Latency:
    return Latency(float(np.median(times)), float(np.quantile(times, 0.95)), len(times), threads)
