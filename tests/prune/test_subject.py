"""What can be named on the command line, and what is written."""

import json

import onnxruntime
import pytest
import torch

from torchard.core.errors import UsageError
from torchard.prune.depgraph import load_pruned, plan, trace
from torchard.prune.subject import open_subject, write


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    subject = open_subject("test_efficientnet", pretrained=False)
    chosen = plan(trace(subject.model, subject.example), ratio=0.5)
    out = tmp_path_factory.mktemp("pruned")
    return subject, out, write(subject, chosen, out, repeats=1)


def test_the_result_is_smaller_loads_and_answers(written):
    subject, out, facts = written
    assert facts["after"]["params"] < 0.5 * facts["before"]["params"]
    assert facts["after"]["bytes"] < 0.5 * facts["before"]["bytes"]
    assert json.loads((out / "prune.json").read_text())["groups"] == facts["groups"]
    small = load_pruned(out / "pruned.safetensors")
    session = onnxruntime.InferenceSession(out / "model.onnx")
    with torch.no_grad():
        expected = small(subject.example)
    logits = session.run(["logits"], {session.get_inputs()[0].name: subject.example.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-3)


def test_a_result_can_be_opened_again(written):
    subject, out, _ = written
    again = open_subject(str(out / "pruned.safetensors"))
    assert again.origin == subject.origin
    assert again.example.shape == subject.example.shape


def test_the_original_is_left_whole(written):
    subject, _, facts = written
    assert sum(p.numel() for p in subject.model.parameters()) == facts["before"]["params"]


@pytest.mark.parametrize(
    "what", ["no_such_model", "torchvision:no_such_model", "missing.safetensors"], ids=str
)
def test_unknown_names_are_usage_errors(what):
    with pytest.raises(UsageError):
        open_subject(what, pretrained=False)


def test_torchvision_names_take_a_prefix():
    subject = open_subject("torchvision:squeezenet1_1", size=64, pretrained=False)
    assert subject.example.shape == (1, 3, 64, 64)
    assert subject.origin.source == "torchvision"


def test_a_foreign_folder_is_not_written_to(written, tmp_path):
    subject, _, _ = written
    (tmp_path / "letter.txt").write_text("mine")
    chosen = plan(trace(subject.model, subject.example), ratio=0.5)
    with pytest.raises(UsageError, match="holds something else"):
        write(subject, chosen, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        write(subject, chosen, tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
