"""Pruning what a run tuned: by itself, for other targets, and with what came of the former model gone."""

import pytest

from tests.pipeline.small_task import write_digits, write_model
from torchard.core.budget import count_params, parse_macs
from torchard.core.errors import UsageError
from torchard.core.files import read_json, write_json
from torchard.pipeline import Settings, rank, tune
from torchard.pipeline.export_run import built
from torchard.pipeline.fit import opened
from torchard.pipeline.prune_run import prune_run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    root = tmp_path_factory.mktemp("prune-run")
    settings = Settings(
        str(write_digits(root / "digits")), seconds=20.0, models=str(write_model(root / "model"))
    )
    with opened(settings, root / "run") as job:
        tune(job, rank(job))
    return root / "run"


def test_a_tuned_run_is_pruned_then_pruned_anew_for_another_target(tuned):
    whole = count_params(built(tuned).model)
    half = prune_run(tuned)
    assert half["reached"]
    assert half["target"] == {"macs": "0.5x"}
    assert half["after"]["macs"] <= 0.5 * half["before"]["macs"]
    assert count_params(built(tuned).model) == half["after"]["params"] < whole

    made_of_it = [tuned / name for name in ("test.json", "model.onnx", "model.pt2", "report.html")]
    for path in made_of_it:
        path.write_text("{}")
    before = (tuned / "pruned.safetensors").read_bytes()
    assert prune_run(tuned) == half  # nothing to do
    assert (tuned / "pruned.safetensors").read_bytes() == before
    assert all(path.exists() for path in made_of_it)

    most = prune_run(tuned, targets={"macs": parse_macs("0.7x")})
    assert half["after"]["macs"] < most["after"]["macs"] <= 0.7 * most["before"]["macs"]
    assert not any(path.exists() for path in made_of_it)
    assert read_json(tuned / "torchard.json")["targets"] == {"macs": "0.7x"}


def test_a_folder_without_a_tuned_model_is_refused(tmp_path):
    write_json(tmp_path / "torchard.json", {"format": 1, **Settings("digits").to_json()})
    with pytest.raises(UsageError, match="no tuned model"):
        prune_run(tmp_path)


def test_data_that_changed_are_refused(tuned):
    kept = read_json(tuned / "data.json")
    write_json(tuned / "data.json", kept | {"fingerprint": "another"})
    with pytest.raises(UsageError, match="tune it again"):
        prune_run(tuned)
    write_json(tuned / "data.json", kept)


def test_several_processes_of_a_launcher_are_refused(tuned, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="launched in 2 processes"):
        prune_run(tuned)
