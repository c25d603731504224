"""What the contracts of a transform ask of DepGraph."""

from pathlib import Path

import torch
from torch import nn

from tests.contracts.cases import TransformCase
from tests.prune.depgraph.networks import Residual, perturbed
from torchard.prune.depgraph import load_pruned, prune, save_pruned

INPUTS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def contract_case() -> TransformCase:
    """Cut to half, without a way back; kept in one file."""
    return TransformCase(_build, INPUTS, _cut, _save, _load)


def _build() -> nn.Module:
    torch.manual_seed(0)
    return perturbed(Residual()).eval()


def _cut(model: nn.Module) -> nn.Module:
    prune(model, INPUTS, ratio=0.5)
    return model


def _save(model: nn.Module, folder: Path) -> None:
    save_pruned(model, _file(folder), factory=_build)


def _load(model: nn.Module, folder: Path) -> nn.Module:
    return load_pruned(_file(folder), model)


def _file(place: Path) -> Path:
    return place / "pruned.safetensors" if place.is_dir() else place
