"""Run a model over a loader once and keep the output of any of its layers."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.surgery import classifier_name, find, flags_kept


def extract(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layer: str | None = None,
    device: torch.device | str | None = None,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "n d"]:
    """Return one feature vector per sample, on the CPU, in the order of ``batches``.

    A batch is a tensor, an object with ``inputs``, or a tuple that begins with the inputs; one tensor in
    place of ``batches`` is a single batch. Without
    ``layer`` the features are what the classifier sees: ``forward_head(forward_features(x),
    pre_logits=True)`` for timm models, else the input of the last linear layer. With ``layer`` they are
    that layer's output, reduced to vectors by ``pool`` (default :func:`to_vectors`), and the rest of the
    network is not run. The model runs in eval mode on ``device`` (default: where it is), and leaves with
    its flags, its hooks and its place as they were. Memory: the features once.

    Raises:
        ValueError: if there are no batches, or no layer of this name.
    """
    rows = pool or to_vectors
    buffer = torch.empty(0)
    filled = 0
    for output in stream(model, batches, layer=layer, device=device):
        vectors = rows(output).to("cpu")
        if filled == 0:
            buffer = vectors.new_empty(_expected(batches, len(vectors)), *vectors.shape[1:])
        if filled + len(vectors) > len(buffer):
            buffer = _grown(buffer, filled + len(vectors))
        buffer[filled : filled + len(vectors)] = vectors
        filled += len(vectors)
    if filled == 0:
        raise ValueError("`batches` is empty: there is nothing to extract features from.")
    return buffer[:filled].clone() if filled < len(buffer) else buffer


def stream(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layer: str | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Yield the raw output of ``layer`` (default: what the classifier sees) batch by batch.

    Flags are those of eval mode while a batch is computed, and the model's own between batches.

    Raises:
        ValueError: if there is no layer of this name.
    """
    look = _penultimate(model) if layer is None else _output_of(model, layer)
    place = torch.device(device) if device is not None else _device(model)
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        yield _looked_at(model, look, _inputs(batch), place)


def to_vectors(output: Tensor) -> Float[Tensor, "n d"]:
    """Average maps (n, d, h, w) over space and token sequences (n, t, d) over tokens; keep vectors."""
    if output.ndim == 4:
        return output.mean(dim=(2, 3))
    if output.ndim == 3:
        return output.mean(dim=1)
    return output.flatten(1)


def penultimate(model: nn.Module, inputs: Tensor) -> Float[Tensor, "n d"]:
    """Return what the classifier sees for one batch, differentiably and in the model's present mode."""
    return to_vectors(_penultimate(model)(inputs))


class _Reached(Exception):
    """The wanted layer has been reached; the rest of the network need not run."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def _looked_at(
    model: nn.Module, look: Callable[[Tensor], Tensor], inputs: Tensor, place: torch.device
) -> Tensor:
    """One batch in eval mode at ``place``; nothing of the model is different afterwards."""
    home = _device(model)
    try:
        with flags_kept(model), torch.no_grad():
            model.eval()
            if place != home:
                model.to(place)
            return look(inputs.to(place))
    finally:
        if place != home:
            model.to(home)


def _penultimate(model: nn.Module) -> Callable[[Tensor], Tensor]:
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return lambda inputs: model.forward_head(model.forward_features(inputs), pre_logits=True)  # type: ignore[operator]
    classifier = model.get_submodule(classifier_name(model))

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Reached(args[0])

    return lambda inputs: _run_until(model, inputs, lambda: classifier.register_forward_pre_hook(stop))


def _output_of(model: nn.Module, layer: str) -> Callable[[Tensor], Tensor]:
    module = next(iter(find(model, layer).values()))

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    return lambda inputs: _run_until(model, inputs, lambda: module.register_forward_hook(stop))


def _run_until(model: nn.Module, inputs: Tensor, attach: Callable[[], Any]) -> Tensor:
    handle = attach()
    try:
        model(inputs)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise ValueError(f"{type(model).__name__}'s forward pass never reached the wanted layer.")


def _inputs(batch: Any) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    return batch.inputs if hasattr(batch, "inputs") else batch[0]


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _expected(batches: Iterable[Any], first: int) -> int:
    """How many rows to set aside: exact for equal batches, an upper bound where the last is short."""
    return first * len(batches) if isinstance(batches, Sized) and not isinstance(batches, Tensor) else first


def _grown(buffer: Tensor, needed: int) -> Tensor:
    larger = buffer.new_empty(max(needed, 2 * len(buffer)), *buffer.shape[1:])
    larger[: len(buffer)] = buffer
    return larger
