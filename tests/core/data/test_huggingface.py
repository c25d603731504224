import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from torchard.core.data import load_task
from torchard.core.data.huggingface import hub_task
from torchard.core.errors import DataError, MissingExtraError, UsageError


class Image:
    """As ``datasets.Image``: decodes, unless told not to."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    pass


class FakeSplit:
    """The part of ``datasets.Dataset`` that torchard uses, in memory."""

    def __init__(self, rows: list[dict[str, Any]], features: Mapping[str, Any]) -> None:
        self.rows, self.features = rows, dict(features)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        picture = next((name for name, kind in self.features.items() if isinstance(kind, Image)), None)
        if picture is not None and self.features[picture].decode:
            raise AssertionError("decoded by the library, not by us")
        return self.rows[key]

    def cast_column(self, column: str, feature: Any, /) -> "FakeSplit":
        return FakeSplit(self.rows, self.features | {column: feature})


def png(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20), dtype=np.uint8)
    Picture.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fake(count: int, *, start: int = 0, labels: list[Any] | None = None, **features: Any) -> FakeSplit:
    wanted = {"image": Image(), "label": ClassLabel(["cat", "dog"])} | features
    values = labels or [row % 2 for row in range(count)]
    return FakeSplit(
        [{"image": {"bytes": png(start + row), "path": None}, "label": values[row]} for row in range(count)],
        wanted,
    )


def test_rows_become_a_task_with_the_hubs_class_names():
    task = hub_task({"train": fake(20)}, spec="hf:owner/pets")
    assert task.name == "owner/pets"
    assert task.classes == ("cat", "dog")
    assert task.summary()["counts"]["test"] == {"cat": 2, "dog": 2}
    for split in task.splits.values():
        for row, name in enumerate(split.names):
            number = int(name.split("/")[1])
            assert split.targets[row] == number % 2
            expected = Picture.open(io.BytesIO(png(number))).convert("RGB")
            assert np.array_equal(np.asarray(split.image(row)), np.asarray(expected))


def test_given_splits_are_kept_and_others_named():
    splits = {"train": fake(8), "validation": fake(4, start=50), "test": fake(2, start=90), "extra": fake(1)}
    task = hub_task(splits, spec="hf:a/b")
    assert [len(split) for split in task.splits.values()] == [8, 4, 2]
    assert task.notes == ("Splits not used: 'extra'.",)


def test_a_hidden_test_split_without_labels_is_left_out():
    splits = {"train": fake(20), "test": fake(6, start=50, labels=[-1] * 6)}
    task = hub_task(splits, spec="hf:a/b")
    assert all(name.startswith("train/") for name in task.test.names)
    assert task.notes[0] == "Rows without a label, left out: 6."


def test_damaged_images_are_left_out_by_row():
    split = fake(20)
    split.rows[3]["image"] = {"bytes": b"text", "path": None}
    split.rows[4]["image"] = None
    task = hub_task({"train": split}, spec="hf:a/b")
    assert task.excluded == (
        ("train/0000003", "not an image of a known format"),
        ("train/0000004", "empty file"),
    )


def test_files_are_read_from_the_cache_alone(tmp_path):
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    split = fake(20)
    for folder, row in ((cache, 0), (outside, 1)):
        folder.mkdir()
        (folder / "x.png").write_bytes(png(100 + row))
        split.rows[row]["image"] = {"bytes": None, "path": str(folder / "x.png")}
    task = hub_task({"train": split}, spec="hf:a/b", caches=[cache])
    assert task.excluded == (("train/0000001", "cannot be read"),)


def test_labels_may_be_words_or_numbers():
    words = hub_task({"train": fake(8, labels=["b", "a"] * 4, label=Value())}, spec="hf:a/b")
    numbers = hub_task({"train": fake(9, labels=[10, 9, 0] * 3, label=Value())}, spec="hf:a/b")
    assert words.classes == ("a", "b")
    assert numbers.classes == ("0", "9", "10")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": fake(2, labels=[0, 2])}, "train row 1: label 2 is none of the 2 classes"),
        ({"all": fake(2)}, "has no split named train, but 'all'"),
        ({"train": fake(2), "val": fake(2), "validation": fake(2)}, "two splits that mean the same"),
        (
            {"train": fake(2, image=Value())},
            "0 columns of type Image, one is needed; columns: 'image' .Value",
        ),
        (
            {"train": FakeSplit([], {"a": Image(), "b": Image(), "label": ClassLabel([])})},
            "2 columns of type Image",
        ),
        ({"train": FakeSplit([], {"image": Image(), "x": Value()})}, "0 columns of type ClassLabel"),
    ],
)
def test_sets_that_do_not_fit_are_refused(splits, message):
    with pytest.raises(DataError, match=message):
        hub_task(splits, spec="hf:a/b")


@pytest.fixture
def library(monkeypatch) -> ModuleType:
    module = ModuleType("datasets")
    module.config = SimpleNamespace(HF_DATASETS_CACHE="/nonexistent")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_the_name_configuration_and_folder_reach_the_library(library, tmp_path):
    asked = []

    def load_dataset(*arguments: Any, **options: Any) -> dict[str, FakeSplit]:
        asked.append((arguments, options))
        return {"train": fake(20)}

    library.load_dataset = load_dataset
    assert load_task("hf:owner/pets:small", root=tmp_path).spec == "hf:owner/pets:small"
    load_task("hf:pets")
    assert asked == [
        (("owner/pets", "small"), {"cache_dir": str(tmp_path)}),
        (("pets", None), {"cache_dir": None}),
    ]


def test_what_the_library_raises_is_one_line(library):
    def load_dataset(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    library.load_dataset = load_dataset
    with pytest.raises(DataError, match=r"^hf:a/b cannot be loaded: Couldn't reach the hub$"):
        load_task("hf:a/b")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchard\[hf\]'"):
        load_task("hf:a/b")


@pytest.mark.parametrize("name", ["", "../x", "/etc", "a/b/c", "a b", "https://x/y"])
def test_what_is_no_name_on_the_hub_is_wrong_use(name):
    with pytest.raises(UsageError, match="names no data set"):
        load_task(f"hf:{name}")


@pytest.mark.filterwarnings("ignore")  # its own, from pickling its configuration for a digest
def test_the_real_library_keeps_the_interface_used_here(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog"]),
        caption=datasets.Value("string"),
    )
    file = tmp_path / "x.png"
    file.write_bytes(png(99))
    images = [{"bytes": png(row), "path": None} for row in range(19)] + [{"bytes": None, "path": str(file)}]
    rows = {"image": images, "label": [row % 2 for row in range(20)], "caption": ["?"] * 20}
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))
    task = hub_task(splits, spec="hf:a/b", caches=[Path(tmp_path)])
    ours = hub_task({"train": fake(20)}, spec="hf:a/b")
    assert task.classes == ours.classes
    assert task.excluded == ()
    assert task.test.names == ours.test.names
