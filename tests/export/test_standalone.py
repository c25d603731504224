import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.export.models import CLASSES, SPEC
from torchard.core.data import preprocess
from torchard.core.pixels import open_image
from torchard.export.script import script, write_script
from torchard.export.standalone import open_model, softmax

WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(['torch', 'torchard', 'timm', 'torchvision']));"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """A folder as a user receives it: the model and the script, no torchard."""
    folder = tmp_path_factory.mktemp("received")
    shutil.copy(exported.path, folder / "model.onnx")
    write_script(folder)
    return folder


def run(folder, *arguments):
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, folder / "predict.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_script_names_files_as_the_eager_model_does_without_torch(exported, folder):
    done = run(folder, "--json", "--logits", "--top", "1", "--", *exported.files)
    assert done.returncode == 0, done.stderr
    inputs = torch.stack([torch.from_numpy(preprocess(open_image(file), SPEC)) for file in exported.files])
    with torch.inference_mode():
        logits = exported.model(inputs)
    for row, expected in zip(json.loads(done.stdout)["images"], logits, strict=True):
        np.testing.assert_allclose(row["logits"], expected, atol=1e-3)
        assert row["predictions"][0]["label"] == CLASSES[int(expected.argmax())]
        assert row["predictions"][0]["confidence"] == pytest.approx(
            expected.softmax(0).max().item(), abs=1e-4
        )


def test_a_file_that_is_no_image_is_named_and_the_others_are_still_told(exported, folder, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    done = run(folder, tmp_path / "page.jpg", tmp_path / "missing.png", exported.files[0])
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "page.jpg: not read" in lines[0]
    assert "missing.png: not read" in lines[1]
    assert "%" in lines[2]


def test_the_script_imports_nothing_of_ours():
    assert "from torchard" not in script()
    assert "import torch" not in script()
    compile(script(), "predict.py", "exec")


def test_preprocessing_is_the_reference_bit_for_bit(exported):
    model = open_model(exported.path)
    for file in exported.files:
        image = open_image(file)
        assert np.array_equal(model.preprocess([image])[0], preprocess(image, SPEC))


def test_more_images_than_a_batch_and_none_at_all(exported):
    model = open_model(exported.path)
    images = [open_image(file) for file in exported.files] * 5
    assert model.logits(images).shape == (40, 3)
    assert model.predict([]) == []


def test_predictions_come_best_first_and_sum_to_one(exported):
    (guesses,) = open_model(exported.path).predict([open_image(exported.files[0])])
    assert [confidence for _, confidence in guesses] == sorted((c for _, c in guesses), reverse=True)
    assert sum(confidence for _, confidence in guesses) == pytest.approx(1)


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)), st.floats(-100, 100))
def test_softmax_is_a_distribution_and_ignores_shifts(logits, shift):
    found = softmax(logits)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(softmax(logits.astype(np.float64) + shift), found, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", None),
        ("classes", "[]"),
        ("classes", '["a"]'),
        ("classes", "[1, 2, 3]"),
        ("classes", "{"),
        ("classes", "[" * 100_000),
        ("size", "[24]"),
        ("size", "[1000000000000, 32]"),
        ("size", "[0, 32]"),
        ("size", "[32, 24]"),
        ("size", '"24"'),
        ("mean", "[0, 0]"),
        ("mean", "[NaN, 0, 0]"),
        ("std", "[0, 1, 1]"),
        ("std", "[Infinity, 1, 1]"),
        ("interpolation", '"__class__"'),
        ("interpolation", "[]"),
        ("rule", '"shell"'),
    ],
)
def test_metadata_from_strangers_are_checked(exported, tmp_path, key, value):
    model = onnx.load(exported.path)
    entries = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    onnx.helper.set_model_props(model, {name: text for name, text in entries.items() if text is not None})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.onnx") as caught:
        open_model(tmp_path / "m.onnx")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x0a" * 99])
def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx") as caught:
        open_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
