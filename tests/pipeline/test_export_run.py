import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
from torch import nn

from torchard.core.checkpoint import save_tensors
from torchard.core.data import InputSpec, load_task, preprocess
from torchard.core.errors import FileRefusedError, UsageError
from torchard.core.files import read_json, write_json
from torchard.export.runs import open_run
from torchard.hub.folder import save
from torchard.pipeline.export_run import built, export_run
from torchard.prune.depgraph import apply, plan, save_pruned, trace

SPEC = InputSpec(size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
NAME = "test_efficientnet"


def architecture() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=10).eval()


def write_run(folder: Path) -> nn.Module:
    """What `torchard tune digits` leaves, with an untrained model."""
    folder.mkdir()
    model = architecture()
    task = load_task("digits", seed=0)
    write_json(folder / "torchard.json", {"format": 1, "data": "digits", "seed": 0})
    write_json(folder / "data.json", task.summary())
    write_json(folder / "tune.json", {"model": NAME, "input": SPEC.to_json()})
    save_tensors(folder / "tuned.safetensors", model.state_dict())
    return model


class Exported(NamedTuple):
    tuned: Path
    pruned: Path
    elsewhere: Path
    model: nn.Module


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Exported:
    """A pruned run exported in place, a tuned one to another folder, checked on one image given."""
    folder = tmp_path_factory.mktemp("runs")
    image = folder / "digit.png"
    load_task("digits", seed=0).test.image(0).save(image)
    write_run(folder / "tuned")
    model = write_run(folder / "pruned")
    graph = trace(model, torch.zeros(1, 3, *SPEC.size))
    apply(model, plan(graph, ratio=0.5))
    save_pruned(model, folder / "pruned" / "pruned.safetensors", factory=architecture)
    export_run(folder / "tuned", out=folder / "elsewhere", images=[image])
    export_run(folder / "pruned")
    return Exported(folder / "tuned", folder / "pruned", folder / "elsewhere", model.eval())


def test_the_pruned_model_gives_a_smaller_file_with_its_own_answers(runs):
    sizes = [(folder / "model.onnx").stat().st_size for folder in (runs.elsewhere, runs.pruned)]
    assert sizes[1] < 0.7 * sizes[0]
    image = load_task("digits", seed=0).validation.image(0)
    with torch.inference_mode():
        expected = runs.model(torch.from_numpy(preprocess(image, SPEC))[None]).numpy()
    np.testing.assert_allclose(open_run(runs.pruned).logits([image]), expected, atol=1e-4)


def test_the_facts_are_kept_in_the_run(runs):
    facts = read_json(runs.pruned / "export.json")
    assert facts["onnx"]["images"] > 10
    assert facts["pt2"]["labels_equal"] is True
    assert facts["eager"]["latency_ms"]["median"] > 0


def test_another_folder_gets_the_files_and_the_run_stays_as_it_was(runs):
    names = sorted(path.name for path in runs.elsewhere.iterdir())
    assert names == ["model.onnx", "model.pt2", "predict.py"]
    assert not (runs.tuned / "export.json").exists()


def test_the_folder_is_ready_to_be_used(runs):
    command = [sys.executable, "predict.py", "../digit.png"]
    done = subprocess.run(command, cwd=runs.elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("../digit.png: ")


def test_a_run_s_stage_decides_which_model_is_taken(runs):
    assert built(runs.tuned).stage == "tuned"
    assert built(runs.pruned).stage == "pruned"
    assert built(runs.tuned).classes == load_task("digits", seed=0).classes


def test_a_saved_model_needs_an_image_to_be_checked_on(tmp_path):
    save(tmp_path, architecture(), name=NAME, input=SPEC)
    assert built(tmp_path).classes == tuple("0123456789")
    with pytest.raises(UsageError, match="--image"):
        export_run(tmp_path)


def test_a_folder_without_a_model_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="holds no model"):
        export_run(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    write_run(tmp_path / "run")
    save_tensors(tmp_path / "run" / "tuned.safetensors", nn.Linear(2, 2).state_dict())
    with pytest.raises(FileRefusedError):
        export_run(tmp_path / "run")
    assert not (tmp_path / "run" / "model.onnx").exists()
