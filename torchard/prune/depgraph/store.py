"""Save a pruned model and load it elsewhere: safetensors and JSON in one file, never pickle.

The file holds tensors, the smaller integers of modules, and at most the catalogue name of the original
architecture. It can name nothing to import; sizes are checked against the original before use.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchard.core.checkpoint import is_finite, load_tensors, save_tensors
from torchard.core.errors import FileRefusedError
from torchard.core.files import parse_json, quote
from torchard.prune.depgraph.cutting import named_tensors, refresh_caches

Source = Literal["hub", "timm", "torchvision"]
Value = int | list[int]
Attributes = dict[str, dict[str, Value]]

_RECIPE = "torchard.pruned"
_FORMAT = 1
# What may be said about an architecture in a file: sizes and names of plain options, nothing that is a path.
_ARGUMENTS = {"num_classes": int, "in_chans": int, "img_size": int, "global_pool": str, "aux_loss": bool}


@dataclass(frozen=True)
class Origin:
    """The architecture a pruned model came from, by its name in a catalogue."""

    source: Source
    name: str
    arguments: dict[str, int | str | bool] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Return the unpruned architecture with random weights.

        Raises:
            ValueError: for an unknown catalogue, name or argument.
        """
        if self.source not in _BUILDERS:
            raise ValueError(f"unknown catalogue {self.source!r}; known: {', '.join(_BUILDERS)}")
        for key, value in self.arguments.items():
            if key not in _ARGUMENTS or type(value) is not _ARGUMENTS[key]:
                raise ValueError(f"argument {key}={value!r} of {self.name} is not one a recipe may hold")
        return _BUILDERS[self.source](self.name, dict(self.arguments))


def save_pruned(model: nn.Module, path: Path, *, factory: Origin | Callable[[], nn.Module]) -> None:
    """Write a pruned model to one safetensors file, atomically.

    ``factory`` is the original architecture: an :class:`Origin`, whose name is written into the file, or a
    function that builds it, which is not: then pass the built original to :func:`load_pruned`.

    Raises:
        ValueError: if the model did not come from that architecture.
    """
    original = factory.build() if isinstance(factory, Origin) else factory()
    tensors = named_tensors(model)
    if differences := _misfits(tensors, named_tensors(original)):
        raise ValueError(f"`factory` builds another architecture: {'; '.join(differences[:5])}")
    recipe = {
        "format": _FORMAT,
        "origin": asdict(factory) if isinstance(factory, Origin) else None,
        "attributes": _changed_attributes(original, model),
    }
    save_tensors(Path(path), tensors, {_RECIPE: json.dumps(recipe, separators=(",", ":"))})


def load_pruned(path: Path, model: nn.Module | None = None) -> nn.Module:
    """Return the pruned model in ``path``, in eval mode.

    Without ``model`` the original is built from the catalogue name in the file; a ``model`` given must be
    the freshly built original and is cut in place, or left as it is when the file is refused.

    Raises:
        FileRefusedError: for a damaged file, an unknown name, sizes that do not fit, NaN or infinity.
        ValueError: if the file names no architecture and no ``model`` is given.
    """
    tensors, metadata = load_tensors(Path(path))
    recipe = _checked_recipe(metadata, path)
    if model is None:
        model = _build(recipe["origin"], path)
    own = named_tensors(model)
    differences = _misfits(tensors, own)
    differences += [
        f"{name} holds NaN or infinity" for name, tensor in tensors.items() if not is_finite(tensor)
    ]
    if differences:
        raise FileRefusedError(
            f"{quote(path)} does not fit {type(model).__name__}: {'; '.join(differences[:5])}."
        )
    changes = _checked_attributes(model, recipe["attributes"], path)
    for module, name, value in changes:
        setattr(module, name, value)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].data = _laid_out_as(tensor, own[name])
    refresh_caches(model)
    return model.eval()


def read_origin(path: Path) -> Origin | None:
    """Return the architecture that a file of :func:`save_pruned` names, if it names one.

    Raises:
        FileRefusedError: if the file is damaged or holds no pruned model.
    """
    origin = _checked_recipe(load_tensors(Path(path))[1], path)["origin"]
    return None if origin is None else _as_origin(origin, path)


def _laid_out_as(tensor: Tensor, original: Tensor) -> Tensor:
    last = original.dim() == 4 and original.is_contiguous(memory_format=torch.channels_last)
    tensor = tensor.to(original.device)
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def _misfits(tensors: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> list[str]:
    found = [f"{quote(name)} is missing" for name in original if name not in tensors]
    for name, tensor in tensors.items():
        if name not in original:
            found.append(f"{quote(name)} is not in the architecture")
        elif not _is_part(tensor, original[name]):
            found.append(
                f"{quote(name)} is {tuple(tensor.shape)}, not a part of {tuple(original[name].shape)}"
            )
    return found


def _is_part(tensor: Tensor, whole: Tensor) -> bool:
    return (
        tensor.dim() == whole.dim()
        and tensor.is_floating_point() == whole.is_floating_point()
        and all(0 < size <= limit for size, limit in zip(tensor.shape, whole.shape) if limit)
    )


def _plain_integers(module: nn.Module) -> dict[str, Value]:
    """Integers, and tuples and lists of them, among a module's attributes."""
    found: dict[str, Value] = {}
    for name, value in vars(module).items():
        if type(value) is int:
            found[name] = value
        elif isinstance(value, (tuple, list)) and value and all(type(item) is int for item in value):
            found[name] = list(value)
    return found


def _changed_attributes(original: nn.Module, model: nn.Module) -> Attributes:
    pruned = dict(model.named_modules())
    changes: Attributes = {}
    for path, module in original.named_modules():
        if path not in pruned:
            continue
        now = _plain_integers(pruned[path])
        different = {
            n: now[n] for n, value in _plain_integers(module).items() if n in now and now[n] != value
        }
        if different:
            changes[path] = different
    return changes


def _checked_recipe(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if _RECIPE not in metadata:
        raise FileRefusedError(f"{quote(path)} is refused: it holds no pruned model.")
    recipe = parse_json(metadata[_RECIPE], source=f"The recipe in {quote(path)}", max_depth=6)
    if not isinstance(recipe, dict) or set(recipe) != {"format", "origin", "attributes"}:
        raise FileRefusedError(f"The recipe in {quote(path)} is refused: not of a known form.")
    if recipe["format"] != _FORMAT or not isinstance(recipe["attributes"], dict):
        raise FileRefusedError(f"The recipe in {quote(path)} is refused: not of format {_FORMAT}.")
    return recipe


def _build(origin: Any, path: Path) -> nn.Module:
    if origin is None:
        raise ValueError(f"{quote(path)} names no architecture; pass the unpruned one as `model`")
    try:
        return _as_origin(origin, path).build()
    except (ValueError, TypeError, RuntimeError) as error:
        raise FileRefusedError(f"The recipe in {quote(path)} is refused: {error}.") from None


def _as_origin(origin: Any, path: Path) -> Origin:
    keys = {"source", "name", "arguments"}
    if not isinstance(origin, dict) or set(origin) != keys or not isinstance(origin["arguments"], dict):
        raise FileRefusedError(f"The recipe in {quote(path)} is refused: its origin is not of a known form.")
    if not isinstance(origin["source"], str) or not isinstance(origin["name"], str):
        raise FileRefusedError(f"The recipe in {quote(path)} is refused: its origin is not of a known form.")
    return Origin(origin["source"], origin["name"], origin["arguments"])  # type: ignore[arg-type]


def _checked_attributes(model: nn.Module, attributes: Any, path: Path) -> list[tuple[nn.Module, str, Any]]:
    """Only integers that exist and only smaller values: a file can shrink a module, not steer it."""
    modules = dict(model.named_modules())
    changes = []
    for place, values in attributes.items():
        own = _plain_integers(modules[place]) if place in modules and isinstance(values, dict) else {}
        for name, value in values.items() if isinstance(values, dict) else [("", None)]:
            if name not in own or not _is_smaller(value, own[name]):
                what = f"{quote(place)}.{quote(name)} cannot become {quote(value)}"
                raise FileRefusedError(f"The recipe in {quote(path)} is refused: {what}.")
            kind = type(vars(modules[place])[name])
            changes.append((modules[place], name, value if kind is int else kind(value)))
    return changes


def _is_smaller(value: Any, own: Value) -> bool:
    if isinstance(own, list):
        return isinstance(value, list) and len(value) == len(own) and all(map(_is_smaller, value, own))
    return type(value) is int and 0 <= value <= own


def _from_hub(name: str, arguments: dict[str, Any]) -> nn.Module:
    from torchard import hub

    return hub.load(name, num_classes=arguments.get("num_classes"), pretrained=False)


def _from_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name) or ":" in name or "/" in name:
        raise ValueError(f"timm has no model {name!r}")
    return timm.create_model(name, pretrained=False, **arguments)


def _from_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models():
        raise ValueError(f"torchvision has no model {name!r}")
    if "segmentation" in torchvision.models.get_model_builder(name).__module__:
        arguments["weights_backbone"] = None
    return torchvision.models.get_model(name, weights=None, **arguments)


_BUILDERS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "hub": _from_hub,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
}
