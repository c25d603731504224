"""Store a named set of adapters as ``adapter.safetensors`` and ``adapter.json``, and read it back."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchard.core.checkpoint import is_finite, load_tensors, save_tensors
from torchard.core.files import read_json, write_json
from torchard.tune.adapters.errors import AdapterMismatchError, NothingToSaveError
from torchard.tune.adapters.sites import CONTAINER, Site
from torchard.tune.adapters.state import (
    AdapterSpec,
    Attachment,
    adapter_parameters,
    containers,
    head_tensors,
    require_tuning,
    specs,
)
from torchard.tune.adapters.through_weights import is_through_weights, stored_parameter
from torchard.tune.fold import FOLDABLE, channels

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class StoredAdapter:
    """A stored set, read and checked against a model, ready to be installed."""

    spec: AdapterSpec
    name: str
    config: Any
    sites: dict[str, Site]
    also_train: tuple[str, ...]
    through_weights: tuple[str, ...]
    tensors: dict[str, Tensor]


def fingerprint(model: nn.Module, sites: Iterable[str]) -> str:
    """Return a digest of the base model: names, shapes and types of all, and values of the touched layers."""
    digest = hashlib.sha256()
    for key, value in sorted(base_state(model).items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
    for path in sorted(sites):
        layer = model.get_submodule(path)
        for name in ("weight", "bias"):
            stored = stored_parameter(layer, name)
            if stored is not None and path:
                digest.update(f"{path}.{name} {_sum(stored)}\n".encode())
    return digest.hexdigest()


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state dict without what was attached."""
    return {key: value for key, value in model.state_dict().items() if CONTAINER not in key.split(".")}


def write_adapter(model: nn.Module, path: Path, name: str) -> Path:
    """Write the two files into the folder ``path``, which is created, and return it."""
    attachment = require_tuning(model).attachments[name]
    tensors = tensors_of(model, name)
    if not tensors:
        raise NothingToSaveError(
            f"{attachment.method} adds no numbers of its own, so there is nothing to save."
        )
    path.mkdir(parents=True, exist_ok=True)
    description = _description(model, name, attachment)
    stored = {key: value.detach() for key, value in tensors.items()}
    save_tensors(path / "adapter.safetensors", stored, {"description": _digest(description)})
    write_json(path / "adapter.json", description)
    return path


def tensors_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return everything that a stored set holds, by its key in the file; live tensors, not copies."""
    tuning = require_tuning(model)
    attachment = tuning.attachments[name]
    tensors: dict[str, Tensor] = {}
    for key, parameter in adapter_parameters(model, name).items():
        tensors[key.replace("shared.", "shared/", 1) if key.startswith("shared.") else key] = parameter
    here = head_tensors(model, attachment.also_train)
    values = here if tuning.head_owner == name else attachment.head
    for key in here:
        folder = "also_train" if key in attachment.also_train else "buffers"
        tensors[f"{folder}/{key}"] = values[key]
    return tensors


def read_adapter(model: nn.Module, path: Path, *, strict: bool) -> StoredAdapter:
    """Return the set stored in the folder ``path``, checked against ``model``, which is not changed.

    Raises:
        AdapterMismatchError: if the method is unknown or layers are missing or of another width.
        FileRefusedError: if a file is damaged.
    """
    described = _checked_description(read_json(path / "adapter.json"), path)
    tensors, metadata = load_tensors(path / "adapter.safetensors")
    if metadata.get("description") != _digest(described):
        raise AdapterMismatchError(f"{path}: adapter.json and adapter.safetensors are not of one saving.")
    spec = specs()[described["method"]]
    sites = {key: Site(key, *value) for key, value in described["sites"].items()}
    _check_widths(sites, tensors, path)
    missing = _check_sites(model, sites, strict=strict)
    if described["base"]["fingerprint"] != fingerprint(model, [key for key in sites if key not in missing]):
        warnings.warn(
            f"{path} was trained on a {described['base']['class']} with other weights or shapes than this "
            f"{type(model).__name__}; its outputs will differ.",
            stacklevel=4,
        )
    return StoredAdapter(
        spec,
        described["name"],
        _config(spec, described["config"], path),
        {key: site for key, site in sites.items() if key not in missing},
        tuple(described["also_train"]),
        tuple(key for key in described["through_weights"] if key not in missing),
        {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in missing},
    )


def copy_into_adapter(model: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored values into an installed set, in place, after checking every name and shape.

    Raises:
        AdapterMismatchError: listing the first ten differences; nothing was copied.
    """
    here = tensors_of(model, name)
    problems = [f"{key} is missing in the file" for key in here.keys() - tensors.keys()]
    problems += [f"{key} is not in the model" for key in tensors.keys() - here.keys()]
    problems += [
        f"{key} is {tuple(tensors[key].shape)} in the file, {tuple(here[key].shape)} here"
        for key in here.keys() & tensors.keys()
        if here[key].shape != tensors[key].shape
    ]
    problems += [f"{key} holds NaN or infinity" for key, value in tensors.items() if not is_finite(value)]
    if problems:
        raise AdapterMismatchError(f"the stored adapter does not fit: {'; '.join(sorted(problems)[:10])}.")
    for key, value in tensors.items():
        here[key].data.copy_(value)


def _sum(value: Tensor) -> str:
    return "meta" if value.is_meta else f"{value.detach().double().sum().item():.5e}"


def _digest(description: Mapping[str, Any]) -> str:
    """Ties the two files together: a kill between their writings leaves a pair that is refused."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _description(model: nn.Module, name: str, attachment: Attachment) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "method": attachment.method,
        "method_version": attachment.version,
        "name": name,
        "config": dataclasses.asdict(attachment.config),
        "torch": torch.__version__,
        "base": {"class": type(model).__name__, "fingerprint": attachment.fingerprint},
        "sites": {path: [site.kind, site.width] for path, site in attachment.sites.items()},
        "also_train": list(attachment.also_train),
        "through_weights": [
            path for path in containers(model) if path and is_through_weights(model.get_submodule(path))
        ],
    }


_SCHEMA: dict[str, type] = {
    "format": int,
    "method": str,
    "method_version": int,
    "name": str,
    "config": dict,
    "base": dict,
    "sites": dict,
    "also_train": list,
    "through_weights": list,
}


def _checked_description(value: Any, path: Path) -> dict[str, Any]:
    wrong = [
        key
        for key, kind in _SCHEMA.items()
        if not isinstance(value, dict) or type(value.get(key)) is not kind
    ]
    if not wrong and not (_are_strings(value) and _are_sites(value["sites"])):
        wrong = ["sites"]
    if wrong:
        raise AdapterMismatchError(f"{path}/adapter.json: {', '.join(wrong)} missing or of the wrong type.")
    if value["format"] != FORMAT:
        raise AdapterMismatchError(
            f"{path}/adapter.json has format {value['format']}, this version reads {FORMAT}."
        )
    spec = specs().get(value["method"])
    if spec is None or value["method_version"] > spec.version:
        known = ", ".join(f"{slug} (up to version {s.version})" for slug, s in specs().items())
        raise AdapterMismatchError(
            f"{path} was made by {value['method']!r}, version {value['method_version']}. Known here: {known}."
        )
    return value


def _are_strings(value: Mapping[str, Any]) -> bool:
    texts = [
        *value["also_train"],
        *value["through_weights"],
        *(value["base"].get(k) for k in ("class", "fingerprint")),
    ]
    return all(isinstance(text, str) for text in texts)


def _are_sites(sites: Mapping[str, Any]) -> bool:
    return all(
        isinstance(site, list) and [type(part) for part in site] == [str, int] for site in sites.values()
    )


def _config(spec: AdapterSpec, values: Mapping[str, Any], path: Path) -> Any:
    known = {field.name for field in dataclasses.fields(spec.config)}
    if values.keys() - known:
        unknown = ", ".join(sorted(values.keys() - known))
        raise AdapterMismatchError(f"{path}/adapter.json: unknown settings {unknown} for {spec.slug}.")
    try:
        return spec.config(**values)
    except (TypeError, ValueError) as error:
        raise AdapterMismatchError(f"{path}/adapter.json: {error}") from None


def _check_widths(sites: Mapping[str, Site], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Nothing is allocated for numbers that the file does not hold."""
    held = sum(value.numel() for value in tensors.values())
    absurd = [site for site, value in sites.items() if not 0 < value.width <= held]
    if absurd:
        raise AdapterMismatchError(f"{path}/adapter.json: impossible width at {absurd[0]!r}.")


def _check_sites(model: nn.Module, sites: Mapping[str, Site], *, strict: bool) -> set[str]:
    """Return the paths that the model lacks, if that is allowed."""
    modules = dict(model.named_modules())
    missing = {path for path in sites if path not in modules}
    problems = [f"{path} is missing" for path in sorted(missing)] if strict else []
    problems += [
        f"{path} has width {_width(modules[path], site)}, the adapter {site.width}"
        for path, site in sites.items()
        if path not in missing and _width(modules[path], site) != site.width
    ]
    if problems:
        raise AdapterMismatchError(f"the stored adapter is of another model: {'; '.join(problems[:10])}.")
    return missing


def _width(layer: nn.Module, site: Site) -> int:
    return channels(layer) if isinstance(layer, FOLDABLE) else site.width
