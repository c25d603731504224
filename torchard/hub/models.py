"""List, load and describe models of every source under one set of names.

A name with a slash that is a folder (or any existing model folder) is loaded from there; a packaged name
from its PyPI package; any other from timm.
"""

import difflib
import fnmatch
from pathlib import Path
from typing import Any, get_args

import timm
from torch import nn

from torchard.core.data.spec import InputSpec
from torchard.core.errors import UsageError
from torchard.hub.folder import describe_folder, is_model_folder, list_folders, load_folder, read
from torchard.hub.model import HubModel, Source, check_num_classes, spec_of
from torchard.hub.online import describe_timm, list_timm, load_timm
from torchard.hub.packaged import PACKAGED, list_packaged, load_packaged

__all__ = ["HubModel", "architecture", "describe", "input_spec", "list_models", "load"]


def list_models(pattern: str | None = None, source: str | None = None) -> list[HubModel]:
    """Return the models whose names match the glob ``pattern``, packaged ones first, then timm's.

    Models in folders are listed with ``source="folder"``; their pattern is a glob of paths. No connection
    is made and no weights are read: ``available`` says which of them load here and now.

    Raises:
        UsageError: if there is no such ``source``.
    """
    if source not in (None, *get_args(Source)):
        raise UsageError(f"No source is called {source!r}. There are: {', '.join(get_args(Source))}.")
    if source == "folder":
        return list_folders(pattern or "*")
    glob = pattern or "*"
    packaged = [model for model in list_packaged() if fnmatch.fnmatchcase(model.name, glob)]
    return (packaged if source != "timm" else []) + (list_timm(glob) if source != "packaged" else [])


def describe(name: str) -> HubModel:
    """Return what is known of one model without loading it.

    Raises:
        UsageError: if no source knows the name.
    """
    if is_model_folder(Path(name)):
        return describe_folder(Path(name))
    if name in PACKAGED:
        return next(model for model in list_packaged() if model.name == name)
    _check_timm_name(name)
    return describe_timm(name)


def load(name: str, *, num_classes: int | None = None, pretrained: bool = True) -> nn.Module:
    """Return the model ``name`` in eval mode, channels_last if it is convolutional, with timm's methods.

    ``num_classes=None`` keeps the classifier as trained (``mobilenetv2_100`` comes without one), ``0``
    removes it, another number puts a fresh one in its place. ``pretrained=False`` gives random weights.

    Raises:
        UsageError: if no source knows the name, or timm's weights are neither here nor reachable.
        MissingExtraError: if the package that holds the weights is not installed; it is named.
        FileRefusedError: if weights have the wrong digest, do not fit, or hold NaN or infinity.
    """
    check_num_classes(num_classes)
    if is_model_folder(Path(name)):
        return load_folder(Path(name), num_classes=num_classes, pretrained=pretrained)
    if name in PACKAGED:
        return load_packaged(name, num_classes=num_classes, pretrained=pretrained)
    _check_timm_name(name)
    return load_timm(name, num_classes=num_classes, pretrained=pretrained)


def input_spec(model: str | nn.Module, size: int | tuple[int, int] | None = None) -> InputSpec:
    """Return what ``model`` (a name or a loaded model) was trained to see, or the same at another ``size``.

    Raises:
        UsageError: if no source knows the name.
        ValueError: if the model cannot take images of this size, or does not say what it takes.
    """
    cfg, spec = _described(model)
    if size is None:
        return spec
    wanted = (size, size) if isinstance(size, int) else size
    if cfg.get("fixed_input_size") and wanted != spec.size:
        raise ValueError(
            f"`size={wanted}`: this model takes {spec.size[0]}×{spec.size[1]} pixels and no other."
        )
    return spec.resized(wanted)


def architecture(name: str) -> str:
    """Return timm's name for what ``name`` is built as: itself, or for a folder what the folder says.

    Raises:
        UsageError: if no source knows the name.
        FileRefusedError: if the folder's description is damaged.
    """
    if is_model_folder(Path(name)):
        return read(Path(name)).model
    if name not in PACKAGED:
        _check_timm_name(name)
    return name


def _described(model: str | nn.Module) -> tuple[dict[str, Any], InputSpec]:
    """timm's configuration of the model, as far as it says more than the input, and that input."""
    if isinstance(model, nn.Module):
        cfg = getattr(model, "pretrained_cfg", None)
        if not cfg:
            raise ValueError(
                f"{type(model).__name__} has no `pretrained_cfg` to say what it was trained to see. "
                "Build an InputSpec by hand."
            )
        return dict(cfg), spec_of(cfg)
    if is_model_folder(Path(model)):
        return {}, read(Path(model)).input
    if model in PACKAGED:
        return {}, PACKAGED[model].input
    _check_timm_name(model)
    known = timm.models.get_pretrained_cfg(model)
    assert known is not None  # checked one line above
    return known.to_dict(), spec_of(known.to_dict())


def _check_timm_name(name: str) -> None:
    """Only names of timm's registry: it also takes ``hf-hub:…`` and ``local-dir:…``, which open anything."""
    if ":" in name or "/" in name or not timm.is_model(name) or timm.models.get_pretrained_cfg(name) is None:
        near = difflib.get_close_matches(name, [*PACKAGED, *timm.list_models()], n=3, cutoff=0.5)
        raise UsageError(
            f"No model is called {name!r}: it is no folder with a model, not packaged, and none of timm's. "
            f"Nearest names: {', '.join(near) or 'none'}. `torchard hub list` shows all."
        )
