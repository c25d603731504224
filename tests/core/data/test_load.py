from pathlib import Path

import pytest

from torchard.core.data import load_task
from torchard.core.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("elvp", "Did you mean elpv?"),
        ("nowhere/at/all", "Built in: elpv, elpv:mono"),
        ("", "no folder, CSV file or built-in"),
        ("x" * 300, "does not exist"),
        ("nowhere/cells.csv", r"cells.csv' does not exist"),
        ("https://example.org/cells.csv", "is a URL; download it"),
        ("a\0b", "does not exist"),
        ("digits:8", "digits has no variants"),
        ("a\nb", r"'a\\nb' does not exist"),
    ],
)
def test_unknown_names_are_wrong_use_in_one_line(spec, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        load_task(spec)
    assert "\n" not in str(caught.value)


def test_a_metric_is_taken_over_and_an_unknown_one_refused():
    assert load_task("digits", metric="macro_f1").metric == "macro_f1"
    with pytest.raises(UsageError, match="choose accuracy, balanced_accuracy, macro_f1, auroc"):
        load_task("digits", metric="f1")


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match="must be from 0"):
        load_task("digits", seed=seed)


def test_a_root_that_would_do_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not apply to 'digits'"):
        load_task("digits", root=tmp_path)


def test_a_folder_may_end_like_a_table_and_a_local_name_be_written_with_a_dot(make_folder, monkeypatch):
    root = make_folder({"digits/a": 4, "digits/b": 4, "set.csv/a": 5, "set.csv/b": 5})
    monkeypatch.chdir(root)
    assert sum(map(len, load_task("./digits").splits.values())) == 8
    assert sum(map(len, load_task("set.csv").splits.values())) == 10


def test_the_scan_is_kept_in_the_cache_folder(make_folder, tmp_path):
    root, cache = make_folder({"a": 4, "b": 4}), tmp_path / "cache"
    cache.mkdir()
    first = load_task(str(root), cache=cache)
    assert [file.name for file in cache.iterdir()] == ["manifest.json"]
    assert load_task(str(root), cache=cache).fingerprint == first.fingerprint


def test_nothing_is_written_without_a_cache(make_folder):
    root = make_folder({"a": 4, "b": 4})
    before = sorted(Path(root).rglob("*"))
    load_task(str(root))
    assert sorted(Path(root).rglob("*")) == before
