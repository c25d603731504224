"""What the contracts of a transform ask of UVC."""

from pathlib import Path

from torch import nn

from tests.contracts.cases import TransformCase
from tests.prune.uvc.models import DECISION, images, small_vit
from torchard.prune.uvc import export, load_compressed, save_compressed


def contract_case() -> TransformCase:
    """Cut by a decision, without a way back; kept in one file."""
    return TransformCase(_build, images(), _cut, _save, _load)


def _build() -> nn.Module:
    return small_vit().eval()


def _cut(model: nn.Module) -> nn.Module:
    return export(model, DECISION)


def _save(model: nn.Module, folder: Path) -> None:
    save_compressed(model, DECISION, _file(folder))


def _load(model: nn.Module, folder: Path) -> nn.Module:
    return load_compressed(_file(folder), model)


def _file(place: Path) -> Path:
    return place / "small.safetensors" if place.is_dir() else place
