"""Keep a compressed model in one safetensors file, with its decision."""

import json
from pathlib import Path

from torch import Tensor, nn

from torchard.core.checkpoint import load_into, load_tensors, save_tensors
from torchard.core.errors import FileRefusedError
from torchard.core.files import parse_json, quote
from torchard.prune.uvc.cutting import export
from torchard.prune.uvc.decision import UVCDecision
from torchard.prune.uvc.structure import Adapter

_DECISION = "torchard.uvc"


def save_compressed(model: nn.Module, decision: UVCDecision, path: Path) -> None:
    """Write the exported ``model`` and the decision it came from to ``path``, atomically."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    save_tensors(Path(path), tensors, {_DECISION: json.dumps(decision.to_json(), separators=(",", ":"))})


def load_compressed(
    path: Path, original: nn.Module, *, example: Tensor | None = None, adapter: Adapter | None = None
) -> nn.Module:
    """Return the compressed model in ``path``, in eval mode.

    ``original`` is the dense architecture with any weights; it is not changed.

    Raises:
        FileRefusedError: for a damaged file, or one of another model.
    """
    tensors, metadata = load_tensors(Path(path))
    if _DECISION not in metadata:
        raise FileRefusedError(f"{quote(path)} is refused: it holds no model compressed by UVC.")
    data = parse_json(metadata[_DECISION], source=f"The decision in {quote(path)}", max_depth=8)
    try:
        if not isinstance(data, dict):
            raise ValueError("it is no object")
        small = export(original, UVCDecision.from_json(data), example=example, adapter=adapter)
    except ValueError as error:
        raise FileRefusedError(f"The decision in {quote(path)} is refused: {error}.") from None
    load_into(small, tensors)
    return small.eval()
