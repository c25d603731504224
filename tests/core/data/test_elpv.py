import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchard.core.data import elpv, load_task
from torchard.core.errors import DataError, MissingExtraError, UsageError

PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A small package of the same layout: 96 cells, twelve of each probability and kind."""
    root = tmp_path / "elpv_dataset"
    (root / "data" / "images").mkdir(parents=True)
    (root / "__init__.py").write_text("raise AssertionError('the package must not be imported')")
    lines = []
    for number in range(96):
        name, kind = f"images/cell{number:04d}.png", ("mono", "poly")[number % 2]
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(root / "data" / name)
        lines.append(f"{name}  {PROBABILITIES[number // 2 % 4]:20} {kind}")
    (root / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    return root / "data"


def test_cells_are_split_by_probability_and_kind(package):
    task = load_task("elpv")
    assert [len(split) for split in task.splits.values()] == [61, 11, 24]
    cells = Counter(zip(task.test.groups, task.test.soft_targets[:, 1].tolist(), strict=True))
    assert set(cells.values()) == {3}
    assert task.orientation_free
    assert task.metric == "accuracy"


def test_defective_means_a_probability_of_a_half_or_more(package):
    for split in load_task("elpv").splits.values():
        assert torch.equal(split.targets, (split.soft_targets[:, 1] >= 0.5).long())
        assert torch.equal(split.targets, split.soft_targets.argmax(dim=1))
        torch.testing.assert_close(split.soft_targets.sum(dim=1), torch.ones(len(split)))
        for row, name in enumerate(split.names):
            number = int(name[11:15])
            assert split.soft_targets[row, 1].item() == pytest.approx(number // 2 % 4 / 3)
            assert split.groups[row] == ("mono", "poly")[number % 2]
            assert split.image(row).getpixel((0, 0)) == (number,) * 3


@pytest.mark.parametrize("kind", ["mono", "poly"])
def test_one_kind_is_its_part_of_the_same_splits(package, kind):
    both, one = load_task("elpv"), load_task(f"elpv:{kind}")
    for part, split in both.splits.items():
        expected = [name for name, group in zip(split.names, split.groups, strict=True) if group == kind]
        assert list(one.splits[part].names) == expected
    assert one.fingerprint != both.fingerprint


def test_the_split_follows_the_seed(package):
    assert load_task("elpv").test.names == load_task("elpv", seed=0).test.names
    assert load_task("elpv").test.names != load_task("elpv", seed=1).test.names


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchard\[demo\]'"):
        load_task("elpv")


def test_a_missing_picture_is_named(package):
    (package / "images" / "cell0007.png").unlink()
    with pytest.raises(DataError, match=r"cell0007.png cannot be read .*--force-reinstall"):
        load_task("elpv")


@pytest.mark.parametrize("content", ["images/cell0001.png 1.0", "images/cell0001.png maybe mono", None])
def test_a_damaged_table_of_labels_is_named(package, content):
    (package / "labels.csv").unlink()
    if content is not None:
        (package / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=r"labels.csv cannot be read .*--force-reinstall"):
        load_task("elpv")


def test_another_kind_is_wrong_use():
    with pytest.raises(UsageError, match="choose elpv, elpv:mono or elpv:poly"):
        load_task("elpv:thin")


def test_the_real_package_gives_656_test_cells():
    pytest.importorskip("elpv_dataset")
    sys.modules.pop("elpv_dataset", None)
    task = load_task("elpv")
    assert [len(split) for split in task.splits.values()] == [1672, 296, 656]
    assert task.summary()["counts"]["test"] == {"functional": 451, "defective": 205}
    assert task.summary()["groups"]["test"] == {"mono": 268, "poly": 388}
    assert task.image_size == task.train.image(0).size == (300, 300)
