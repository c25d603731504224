"""The programs that the report offers are run as they stand there."""

import ast
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.export.models import CLASSES, SPEC, small_net
from tests.report.sample_run import write_sample_run
from torchard.export.onnx import export_onnx
from torchard.export.program import export_pt2
from torchard.export.script import write_script
from torchard.report.folder import read_run
from torchard.report.page import render


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder, model = tmp_path_factory.mktemp("run"), small_net()
    write_sample_run(folder)
    Image.new("RGB", (40, 30), "teal").save(folder / "photo.jpg")
    for export, name in ((export_onnx, "model.onnx"), (export_pt2, "model.pt2")):
        export(model, folder / name, spec=SPEC, classes=CLASSES, images=[folder / "photo.jpg"])
    write_script(folder)
    return folder


def programs(folder: Path) -> list[str]:
    found = re.findall(r"<pre><code>(.*?)</code></pre>", render(read_run(folder)), flags=re.DOTALL)
    return [html.unescape(code) for code in found if "import" in code]


def printed(folder: Path, program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_onnx_runtime_gives_labels_with_their_confidence_in_five_lines(run):
    program = programs(run)[0]
    assert len([line for line in program.splitlines() if line.strip()]) <= 5
    assert "torch" not in program.replace("torchard", "")
    (guesses,) = ast.literal_eval(printed(run, program))
    assert {label for label, _ in guesses} == set(CLASSES)


def test_pytorch_gives_the_same_probabilities(run):
    onnx, pytorch = (printed(run, program) for program in programs(run))
    best = ast.literal_eval(onnx)[0][0][1]
    assert max(map(float, re.findall(r"\d\.\d+", pytorch))) == pytest.approx(best, abs=1e-3)
