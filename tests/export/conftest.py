"""One small model, exported once for all tests of the package that only read it."""

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from tests.export.models import CLASSES, SPEC, pictures, small_net
from torchard.export.check import ExportReport
from torchard.export.onnx import export_onnx


class Exported(NamedTuple):
    model: nn.Module
    path: Path
    files: list[Path]
    report: ExportReport


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    (folder / "images").mkdir()
    files, model = pictures(folder / "images"), small_net()
    report = export_onnx(model, folder / "model.onnx", spec=SPEC, classes=CLASSES, images=files)
    return Exported(model, folder / "model.onnx", files, report)
