"""Ranking: one pass a model, honest error bars, ties said, features remembered."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from torchard import hub
from torchard.core import checkpoint
from torchard.core.data import InputSpec, Split, Task
from torchard.core.data.split import ArrayImages
from torchard.core.errors import UsageError
from torchard.core.features import extract
from torchard.hub import folder
from torchard.select.rank import rank
from torchard.select.ranking import Ranking
from torchard.select.scorers import (
    ETRAN,
    H_SCORE,
    KNN,
    LEEP,
    LOGME,
    Look,
    Scorer,
    named,
    pieces,
    scorers,
    standard_error,
)


def split(n: int, seed: int, classes: int = 3) -> Split:
    """Patterns of stripes: the class is their width."""
    generator = np.random.default_rng(seed)
    targets = np.arange(n) % classes
    wave = np.arange(32)[None, :] // (1 + 2 * targets[:, None]) % 2
    pixels = 25 * wave[:, None, :, None] + generator.integers(0, 225, (n, 32, 32, 3))
    names = tuple(f"{seed}-{i}" for i in range(n))
    return Split(ArrayImages(pixels.astype(np.uint8)), torch.from_numpy(targets), names)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(
        name="stripes",
        spec="stripes",
        classes=("a", "b", "c"),
        train=split(120, 0),
        validation=split(9, 1),
        test=split(9, 2),
        metric="accuracy",
        fingerprint="stripes-0",
    )


def network(seed: int, name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=7)
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    return model


class Blind(nn.Module):
    """Features that say nothing: noise that depends on nothing but the position in the batch."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward_features(self, x):
        return torch.randn(len(x), 4, generator=torch.Generator().manual_seed(0))

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.head(x)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_seeing_beats_blind_and_is_not_tied(task):
    ranking = rank({"blind": Blind(), "seeing": network(0)}, task)
    assert [row.model for row in ranking.rows] == ["seeing", "blind"]
    assert ranking.chosen == "seeing"
    assert ranking.tied == ()
    assert "clear of the next" in ranking.reason
    assert ranking.rows[0].gap == 0
    assert ranking.rows[1].gap == pytest.approx(ranking.rows[0].score - ranking.rows[1].score)


def test_equal_models_are_tied_and_the_cheaper_is_chosen(task):
    class Costly(nn.Module):
        """The same answers for more work."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.pretrained_cfg = model, model.pretrained_cfg

        def forward_features(self, x):
            return self.model.forward_features(self.model.forward_features(x)[:, :3].mean() * 0 + x)

        def forward_head(self, x, pre_logits=False):
            return self.model.forward_head(x, pre_logits=pre_logits)

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    models = {"costly": Costly(network(0)), "cheap": network(0)}
    ranking = rank(models, task, samples=60)
    assert set(ranking.tied) == {"costly", "cheap"}
    assert ranking.chosen == "cheap"
    assert ranking.reason.startswith("The two best, ")
    assert "are tied; cheap is cheapest" in ranking.reason


def test_ties_are_judged_on_the_difference_over_the_same_samples():
    """Two scores may each be unsure and their difference sure, because the same samples made both so."""
    from torchard.select.rank import _is_tied, _Judged
    from torchard.select.ranking import Row

    def judged(values: torch.Tensor) -> _Judged:
        score = values.mean().item()
        row = Row("m", "module", score, standard_error(values), None, {}, 1, 1, 0.0, 1, (1, 1))
        return _Judged(row, values, {}, len(values))

    generator = torch.Generator().manual_seed(0)
    best = torch.randn(400, generator=generator).double() + 1
    worse_everywhere = best - 0.05 + 0.01 * torch.randn(400, generator=generator)
    worse_by_chance = torch.randn(400, generator=generator).double()
    worse_by_chance += best.mean() - 0.05 - worse_by_chance.mean()
    assert standard_error(best) > 0.04
    assert not _is_tied(judged(best), judged(worse_everywhere))
    assert _is_tied(judged(best), judged(worse_by_chance))


def test_scores_are_those_of_the_features_themselves(task):
    model = network(0)
    ranking = rank({"net": model}, task, samples=None)
    from torchard.core.data import tensors
    from torchard.select.knn import knn_score
    from torchard.select.logme import logme

    features = extract(model, tensors(task.train, hub.input_spec(model)).split(32))
    (row,) = ranking.rows
    assert row.score == pytest.approx(logme(features, task.train.targets), abs=1e-6)
    assert row.beside["knn"] == pytest.approx(knn_score(features, task.train.targets))
    assert (row.input, row.features, row.source) == ((32, 32), model.num_features, "module")


def test_only_training_images_are_looked_at(task, monkeypatch):
    looked = []
    original = ArrayImages.__getitem__
    monkeypatch.setattr(ArrayImages, "__getitem__", lambda self, i: looked.append(self) or original(self, i))
    fresh = split(30, 5)
    rank({"net": network(0)}, Task(**{**vars_of(task), "train": fresh}))
    assert {id(images) for images in looked} == {id(fresh.images)}


def vars_of(task: Task) -> dict:
    return {field: getattr(task, field) for field in task.__dataclass_fields__}


@pytest.mark.parametrize("samples", [10, 30, 100])
def test_the_subsample_keeps_every_class(task, samples):
    from torchard.select.rank import _subsample

    uneven = task.train.subset(torch.nonzero((task.train.targets != 2) | (torch.arange(120) < 15)).flatten())
    chosen = _subsample(uneven, samples, seed=0)
    assert len(chosen) == min(samples, len(uneven))
    shares = torch.bincount(chosen.targets, minlength=3) / len(chosen)
    torch.testing.assert_close(shares, torch.bincount(uneven.targets) / len(uneven), atol=1 / samples, rtol=0)
    assert len(set(chosen.names)) == len(chosen)
    assert _subsample(uneven, samples, seed=0).names == chosen.names


def test_features_are_remembered_until_anything_changes(task, tmp_path, monkeypatch):
    first = rank({"net": network(0)}, task, cache=tmp_path, samples=60)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("torchard.select.rank.extract", lambda *_, **__: pytest.fail("extracted again"))
    again = rank({"net": network(0)}, task, cache=tmp_path, samples=60)
    assert again.rows[0].score == first.rows[0].score
    monkeypatch.undo()
    rank({"net": network(1)}, task, cache=tmp_path, samples=60)
    rank({"net": network(0)}, task, cache=tmp_path, samples=30)
    rank({"net": network(0)}, task, cache=tmp_path, samples=60, layer="layer1")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_cache_file_is_replaced(task, tmp_path):
    first = rank({"net": network(0)}, task, cache=tmp_path, samples=60)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert rank({"net": network(0)}, task, cache=tmp_path, samples=60).rows[0].score == first.rows[0].score
    assert "features" in checkpoint.load_tensors(file)[0]


def test_models_are_left_as_they_were(task):
    model = network(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rank({"net": model}, task, samples=30)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("as_task", [True, False], ids=["task", "loader"])
def test_models_run_where_they_are_wanted(task, monkeypatch, as_task):
    places = []

    def noted(*arguments, device=None, **options):
        places.append(device)
        return extract(*arguments, **options)

    monkeypatch.setattr("torchard.select.rank.extract", noted)
    data = task if as_task else [(torch.randn(30, 3, 32, 32), torch.arange(30) % 3)]
    rank({"net": network(0)}, data, samples=30, device="cuda:1")
    rank({"net": network(0)}, data, samples=30)
    assert places == ["cuda:1", None]


def test_any_loader_of_batches_will_do(task):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 2) for _ in range(4)]
    ranking = rank({"a": network(0), "b": network(1)}, batches)
    assert ranking.samples == 32
    assert ranking.rows[0].input == (32, 32)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.Linear(6, 2))
    assert rank({"plain": plain}, batches).rows[0].features == 6


def test_names_are_loaded_from_the_hub(task, tmp_path):
    for seed in range(2):
        folder.save(tmp_path / f"net{seed}", network(seed), name="test_resnet", input=InputSpec((32, 32)))
    names = [str(tmp_path / "net0"), str(tmp_path / "net1")]
    seen: list[str] = []
    ranking = rank(names, task, samples=30, progress=seen.append)
    assert seen == names
    assert {row.source for row in ranking.rows} == {"folder"}


def test_a_model_without_a_classifier_has_no_leep(task):
    models = {"with": network(0), "without": network(1)}
    models["without"].reset_classifier(0)
    ranking = rank(models, task, samples=30, beside=(LEEP,))
    beside = {row.model: row.beside["leep"] for row in ranking.rows}
    assert beside["without"] is None
    assert beside["with"] < 0
    ranking = rank(models, task, samples=30, scorer=LEEP, beside=())
    assert [row.model for row in ranking.rows] == ["with", "without"]
    with pytest.raises(ValueError, match="none has one"):
        rank({"without": models["without"]}, task, samples=30, scorer=LEEP)


def test_source_probabilities_are_the_models_own(task):
    from torchard.select.rank import _looked_at_split

    model = network(0).eval()
    spec = hub.input_spec(model)
    look = _looked_at_split(model, task.train, spec, None)
    from torchard.core.data import tensors

    with torch.no_grad():
        expected = model(tensors(task.train, spec, indices=range(8))).softmax(dim=1)
    torch.testing.assert_close(look.source_probs[:8], expected, rtol=1e-4, atol=1e-6)


def test_a_ranking_sorts_prints_and_speaks_json(task):
    models = {f"net{i}": network(i) for i in range(3)}
    ranking = rank(models, task, samples=60)
    facts = json.loads(json.dumps(ranking.to_json()))
    assert set(facts) == {"scorer", "rows", "tied", "chosen", "reason", "samples", "seconds", "failed"}
    wanted = {"model", "source", "score", "error", "knn", "params", "macs", "seconds", "input"}
    assert wanted <= set(facts["rows"][0])
    assert [row.beside["knn"] for row in ranking.sorted("knn")] == sorted(
        (row.beside["knn"] for row in ranking.rows), reverse=True
    )
    assert ranking.sorted("macs")[0].macs == min(row.macs for row in ranking.rows)
    truth = {row.model: row.score for row in ranking.rows}
    assert ranking.agreement(truth)["logme"] == pytest.approx(1)
    assert -1 <= ranking.correlations()["logme", "knn"] <= 1
    text = str(ranking)
    assert text.splitlines()[0].split() == ["model", "logme", "gap", "knn", "params", "MACs", "seconds"]
    assert text.splitlines()[-1] == ranking.reason
    with pytest.raises(ValueError, match="no column"):
        ranking.sorted("beauty")
    with pytest.raises(ValueError, match="at least 3"):
        ranking.agreement({"net0": 1.0})


def broken(seed: int) -> nn.Module:
    model = network(seed)
    model.conv1[0].weight.data.fill_(float("nan"))
    return model


def test_a_model_that_fails_is_named_and_the_others_are_ranked(task):
    good = rank({"a": network(0), "b": network(1)}, task, samples=30)
    found = rank({"a": network(0), "ill": broken(2), "b": network(1)}, task, samples=30)
    assert found.failed == {"ill": "`features` holds NaN or infinity."}
    assert [(row.model, row.score) for row in found.rows] == [(row.model, row.score) for row in good.rows]
    assert "Not ranked: ill: `features` holds NaN" in str(found)
    assert good.failed == {}


def compared(ranking: Ranking) -> list[tuple[str, float, float, float]]:
    return [(row.model, row.score, row.error, row.beside["knn"]) for row in ranking.rows]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_give_the_numbers_of_one_process(task, tmp_path, engine, monkeypatch):
    models = {"a": network(0), "ill": broken(2), "b": network(1)}
    alone = rank(models, task, samples=30)
    seen: list[str] = []
    if engine == "ray":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ray's own
            ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    addresses: set[str] = set()

    def progress(name: str) -> None:
        seen.append(name)
        if engine == "ray":
            addresses.update(node["NodeManagerAddress"] for node in ray.nodes())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if engine == "ray" else "error")
        apart = rank(models, task, samples=30, cache=tmp_path, workers=2, engine=engine, progress=progress)
    assert compared(apart) == [(name, *map(pytest.approx, numbers)) for name, *numbers in compared(alone)]
    assert apart.failed == alone.failed
    assert sorted(seen) == ["a", "b", "ill"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # the ill one's features too
    if engine == "ray":
        assert addresses == {"127.0.0.1"}
        assert not ray.is_initialized()


def test_what_cannot_be_sent_to_workers_is_refused(task):
    with pytest.raises(UsageError, match="`workers` needs a task"):
        rank({"net": network(0)}, [], workers=2)
    with pytest.raises(UsageError, match="workers=0"):
        rank({"net": network(0)}, task, workers=0)
    with pytest.raises(UsageError, match="is your own"):
        rank({"net": network(0)}, task, workers=2, scorer=replace(LOGME, name="mine"))
    closed = network(0)
    closed.extra = lambda: None
    with pytest.raises(UsageError, match="net cannot be sent"):
        rank({"net": closed}, task, workers=2)


def test_bad_calls(task):
    with pytest.raises(ValueError, match="nothing to rank"):
        rank({}, task)
    with pytest.raises(ValueError, match="empty"):
        rank({"net": network(0)}, [])
    with pytest.raises(UsageError, match="No model is called"):
        rank(["nonsense"], task)
    with pytest.raises(UsageError, match="needs a task"):
        rank({"net": network(0)}, [], cache=Path("x"))
    with pytest.raises(ValueError, match="at least 2"):
        rank({"net": network(0)}, task, samples=1)
    with pytest.raises(ValueError, match=r"net: .*pretrained_cfg.*loader"):
        rank({"net": nn.Linear(2, 2)}, task)
    exploding = network(0)
    exploding.conv1[0].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"net: `features` holds NaN"):
        rank({"net": exploding}, task, samples=30)


def look(n: int = 120, seed: int = 0) -> Look:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 3
    features = torch.randn(3, 6, generator=generator)[targets] + 2 * torch.randn(n, 6, generator=generator)
    return Look(features, targets, (features[:, :4]).softmax(dim=1))


ALONE = [name for name, scorer in scorers().items() if isinstance(scorer, Scorer)]


@pytest.mark.parametrize("name", ALONE)
def test_every_scorer_ignores_order_and_names_and_prefers_true_labels(name):
    scorer, seen = named(name), look()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    score = scorer.score(seen)
    if name != "linear_probe":  # its folds follow the order
        assert scorer.score(seen.subset(order)) == pytest.approx(score, abs=1e-8)
    renamed = Look(seen.features, (seen.targets + 1) % 3 * 2, seen.source_probs)
    assert scorer.score(renamed) == pytest.approx(score, abs=0.05 if name == "linear_probe" else 1e-8)
    assert scorer.score(Look(seen.features, seen.targets[order], seen.source_probs)) < score


@pytest.mark.parametrize("name", ALONE)
def test_errors_are_of_the_size_of_the_spread_over_new_samples(name):
    """Draw 30 halves of a large pool; the error of one half should be near their spread."""
    scorer, pool = named(name), look(2000)
    generator = torch.Generator().manual_seed(0)
    draws = [pool.subset(torch.randperm(2000, generator=generator)[:150]) for _ in range(12)]
    spread = float(np.std([scorer.score(draw) for draw in draws], ddof=1))
    error = float(np.mean([standard_error(pieces(scorer, draw)) for draw in draws[:3]]))
    assert spread / 2.5 < error < spread * 2.5


def test_joint_scores_are_made_among_the_candidates_and_keep_their_column(task):
    models = {f"net{i}": network(i) for i in range(3)}
    ranking = rank(models, task, samples=60, beside=(KNN, ETRAN, H_SCORE))
    assert list(ranking.rows[0].beside) == ["knn", "etran", "h_score"]
    values = [row.beside["etran"] for row in ranking.rows]
    assert max(values) <= 2
    alone = rank({"net0": models["net0"]}, task, samples=60, beside=(ETRAN,))
    assert alone.rows[0].beside["etran"] == 0


def test_unknown_scorers_are_refused_with_the_names():
    with pytest.raises(UsageError, match="logme, knn"):
        named("beauty")


def test_defaults_are_logme_with_neighbours_beside(task):
    ranking = rank({"net": network(0)}, task, samples=30)
    assert isinstance(ranking, Ranking)
    assert ranking.scorer == LOGME.name
    assert list(ranking.rows[0].beside) == [KNN.name]
    assert "only model" in ranking.reason
