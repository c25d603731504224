"""Pruned models in files: exact, without pickle, and nothing a stranger can steer."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.prune.depgraph.networks import Residual, perturbed
from torchard.core.checkpoint import load_tensors, save_tensors
from torchard.core.errors import FileRefusedError
from torchard.prune.depgraph import Origin, load_pruned, prune, save_pruned
from torchard.prune.depgraph.store import read_origin

ORIGIN = Origin("timm", "test_vit", {"num_classes": 3})
X = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    prune(model, X, ratio=0.5)
    path = tmp_path_factory.mktemp("store") / "pruned.safetensors"
    save_pruned(model.eval(), path, factory=ORIGIN)
    return model, path


def test_a_new_process_answers_identically(pruned, tmp_path):
    model, path = pruned
    script = (
        "import sys, torch\n"
        "from torchard.prune.depgraph import load_pruned\n"
        "from safetensors.torch import load_file, save_file\n"
        "torch.set_num_threads(1)\n"
        "inputs = load_file(sys.argv[2])['inputs']\n"
        "with torch.no_grad():\n"
        "    save_file({'logits': load_pruned(sys.argv[1])(inputs)}, sys.argv[3])\n"
    )
    torch.set_num_threads(1)
    save_file({"inputs": X}, tmp_path / "inputs.safetensors")
    arguments = [path, tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, capture_output=True)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], model(X))


def test_a_loaded_model_can_be_pruned_and_saved_again(pruned, tmp_path):
    again = load_pruned(pruned[1])
    prune(again, X, ratio=0.3)
    save_pruned(again, tmp_path / "again.safetensors", factory=ORIGIN)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path / "again.safetensors")(X), again.eval()(X))


def test_the_origin_is_read_back(pruned):
    assert read_origin(pruned[1]) == ORIGIN


def test_a_model_of_ones_own_is_passed_to_load(tmp_path):
    model, example = perturbed(Residual()), torch.randn(2, 3, 6, 6)
    prune(model, example, ratio=0.5)
    save_pruned(model, tmp_path / "own.safetensors", factory=Residual)
    with pytest.raises(ValueError, match="names no architecture"):
        load_pruned(tmp_path / "own.safetensors")
    loaded = load_pruned(tmp_path / "own.safetensors", Residual())
    assert torch.equal(loaded(example), model.eval()(example))
    assert loaded.stem[0].out_channels == 4


def test_another_architecture_is_refused_both_ways(pruned, tmp_path):
    with pytest.raises(ValueError, match="builds another architecture"):
        save_pruned(Residual(), tmp_path / "x.safetensors", factory=ORIGIN)
    model = Residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FileRefusedError, match="does not fit Residual"):
        load_pruned(pruned[1], model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def rewritten(pruned, tmp_path, change):
    """The file with its recipe or tensors changed, and an honest checksum."""
    tensors, metadata = load_tensors(pruned[1])
    recipe = json.loads(metadata["torchard.pruned"])
    change(recipe, tensors)
    path = tmp_path / "changed.safetensors"
    save_tensors(path, tensors, {"torchard.pruned": json.dumps(recipe)})
    return path


def set_origin(**values):
    return lambda recipe, tensors: recipe["origin"].update(values)


def set_attribute(module, name, value):
    return lambda recipe, tensors: recipe["attributes"].setdefault(module, {}).update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        set_origin(source="os"),
        set_origin(source=["timm"]),
        set_origin(name="os:system"),
        set_origin(name="hf-hub:someone/model"),
        set_origin(name="no_such_model"),
        set_origin(arguments={"checkpoint_path": "/etc/passwd"}),
        set_origin(arguments={"num_classes": "3"}),
        set_origin(arguments={"__class__": 1}),
        set_origin(arguments=[]),
        set_attribute("", "num_classes", 10**12),
        set_attribute("", "forward", 3),
        set_attribute("", "__class__", 3),
        set_attribute("no.such.module", "dim", 3),
        set_attribute("head", "in_features", -1),
        set_attribute("head", "in_features", [1]),
        set_attribute("head", "in_features", "os"),
        lambda recipe, tensors: recipe.update(origin=3),
        lambda recipe, tensors: recipe.update(attributes=[]),
        lambda recipe, tensors: recipe.update(attributes={"head": 3}),
        lambda recipe, tensors: recipe.update(format=99),
        lambda recipe, tensors: recipe.update(more=1),
        lambda recipe, tensors: tensors.pop("cls_token"),
        lambda recipe, tensors: tensors.update(extra=torch.zeros(1)),
        lambda recipe, tensors: tensors.update(cls_token=torch.zeros(1, 1, 4096)),
        lambda recipe, tensors: tensors.update(cls_token=torch.zeros(4)),
        lambda recipe, tensors: tensors.update(cls_token=tensors["cls_token"] * float("nan")),
    ],
)
def test_forged_files_are_refused(pruned, tmp_path, change):
    with pytest.raises(FileRefusedError):
        load_pruned(rewritten(pruned, tmp_path, change))


def test_the_unchanged_copy_loads(pruned, tmp_path):
    load_pruned(rewritten(pruned, tmp_path, lambda recipe, tensors: None))


def test_a_plain_checkpoint_is_no_pruned_model(tmp_path):
    save_tensors(tmp_path / "plain.safetensors", {"weight": torch.zeros(1)})
    with pytest.raises(FileRefusedError, match="holds no pruned model"):
        load_pruned(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(
    "origin",
    [
        Origin("torchvision", "shufflenet_v2_x0_5", {"num_classes": 3}),
        Origin("hub", "mobilenetv2_100", {"num_classes": 3}),
    ],
    ids=["torchvision", "hub"],
)
def test_other_catalogues_build_what_they_saved(origin, tmp_path):
    model = origin.build()
    example = torch.randn(1, 3, 64, 64)
    prune(model, example, ratio=0.4)
    save_pruned(model, tmp_path / "model.safetensors", factory=origin)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path / "model.safetensors")(example), model.eval()(example))
