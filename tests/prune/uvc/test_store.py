"""A compressed model comes back from its file, or the file is refused."""

import json

import pytest
import torch

from tests.prune.uvc.models import DECISION, RAGGED, answers, small_vit
from torchard.core.checkpoint import load_tensors, save_tensors
from torchard.core.errors import FileRefusedError
from torchard.prune.uvc import export, load_compressed, save_compressed


@pytest.mark.parametrize("decision", [DECISION, RAGGED], ids=["tied", "ragged"])
def test_it_comes_back_in_a_fresh_architecture(decision, tmp_path):
    small = export(small_vit(), decision)
    save_compressed(small, decision, tmp_path / "small.safetensors")
    original = small_vit(seed=9)
    before = answers(original)
    loaded = load_compressed(tmp_path / "small.safetensors", original)
    assert torch.equal(answers(loaded), answers(small))
    assert torch.equal(answers(original), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: None, "no model compressed"),
        (lambda data: "[]", "no object"),
        (lambda data: "{", "JSON|decision"),
        (lambda data: json.dumps({**data, "skipped": [0, 1, 2]}), "nothing"),
        (lambda data: json.dumps({**data, "units": [[10**9], [], []]}), "0 to 23"),
        (lambda data: json.dumps({**data, "units": [[0, 5], [], []]}), "fc1"),
    ],
)
def test_files_that_do_not_fit_are_refused(change, message, tmp_path):
    path = tmp_path / "small.safetensors"
    save_compressed(export(small_vit(), DECISION), DECISION, path)
    tensors, metadata = load_tensors(path)
    changed = change(json.loads(metadata["torchard.uvc"]))
    save_tensors(path, tensors, {} if changed is None else {"torchard.uvc": changed})
    with pytest.raises(FileRefusedError, match=message):
        load_compressed(path, small_vit())
