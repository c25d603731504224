import os
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from torchard.core.data import load_task
from torchard.core.data.folder import load_folder
from torchard.core.errors import DataError, UsageError


def counts(task) -> dict[str, dict[str, int]]:
    return task.summary()["counts"]


def test_a_folder_per_class_is_split_three_ways(make_folder):
    task = load_folder(make_folder({"cat": 20, "dog": 40}))
    assert task.classes == ("cat", "dog")
    assert task.metric == "balanced_accuracy"
    assert counts(task) == {
        "train": {"cat": 13, "dog": 26},
        "validation": {"cat": 2, "dog": 4},
        "test": {"cat": 5, "dog": 10},
    }
    names = [name for split in task.splits.values() for name in split.names]
    assert len(set(names)) == 60
    assert task.notes == ()


def test_names_targets_paths_and_images_belong_together(make_folder):
    root = make_folder({"cat": 5, "dog": 5})
    for split in load_folder(root).splits.values():
        for row, name in enumerate(split.names):
            assert split.paths[row] == root / name
            assert ("cat", "dog")[split.targets[row]] == name.split("/")[0]
            assert np.array_equal(np.asarray(split.image(row)), np.asarray(Image.open(root / name)))
            assert split.sizes[row] == (20, 24)


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_given_splits_are_kept(make_folder, validation):
    parts = {"train/a": 4, "train/b": 4, f"{validation}/a": 2, f"{validation}/b": 1, "test/a": 1, "test/b": 3}
    task = load_folder(make_folder(parts))
    assert counts(task) == {
        "train": {"a": 4, "b": 4},
        "validation": {"a": 2, "b": 1},
        "test": {"a": 1, "b": 3},
    }
    assert all(name.startswith("test/") for name in task.test.names)


@pytest.mark.parametrize(
    ("given", "carved"), [("test", "validation"), ("val", "test")], ids=["no validation", "no test"]
)
def test_a_missing_split_is_carved_from_train(make_folder, given, carved):
    task = load_folder(make_folder({"train/a": 20, "train/b": 20, f"{given}/a": 3, f"{given}/b": 3}))
    assert all(name.startswith("train/") for name in task.splits[carved].names)
    assert task.notes == (f"No {carved} split is given: it is carved from train.",)


def test_a_lone_train_folder_is_split_three_ways(make_folder):
    task = load_folder(make_folder({"train/a": 20, "train/b": 20}))
    assert task.classes == ("a", "b")
    assert counts(task)["test"] == {"a": 5, "b": 5}


def test_a_class_may_be_named_train(make_folder):
    assert load_folder(make_folder({"train": 5, "car": 5, "bus": 5})).classes == ("bus", "car", "train")


def test_a_class_named_train_may_have_folders_of_its_own(make_folder):
    assert load_folder(make_folder({"train/steam": 3, "train/diesel": 3, "car": 5})).classes == (
        "car",
        "train",
    )


def test_images_may_lie_deeper_in_a_class(make_folder):
    task = load_folder(make_folder({"a/x/y": 3, "a": 3, "b/z": 4}))
    assert Counter(np.concatenate([split.targets for split in task.splits.values()]).tolist()) == {0: 6, 1: 4}


def test_numbers_are_ordered_as_numbers(make_folder):
    assert load_folder(make_folder({"10": 3, "9": 3, "1": 3})).classes == ("1", "9", "10")


def test_unreadable_images_are_left_out_and_named(make_folder):
    root = make_folder({"a": 10, "b": 10})
    (root / "a" / "page.jpg").write_text("<html>not found</html>")
    (root / "b" / "empty.png").write_bytes(b"")
    half = (root / "b" / "000.png").read_bytes()
    (root / "b" / "half.png").write_bytes(half[: len(half) // 2])
    task = load_folder(root)
    assert task.excluded == (
        ("a/page.jpg", "a web page, not an image"),
        ("b/empty.png", "empty file"),
        ("b/half.png", "truncated"),
    )
    assert sum(map(len, task.splits.values())) == 20
    assert "3 of 23 images cannot be used" in task.notes[0]
    with pytest.raises(DataError, match="leave out --strict"):
        load_folder(root, strict=True)


def test_more_than_a_fifth_unreadable_stops(make_folder):
    root = make_folder({"a": 4, "b": 4})
    for index in range(3):
        (root / "a" / f"bad{index}.png").write_text("text")
    with pytest.raises(DataError, match=r"3 of 11 images cannot be used.*More than 20%"):
        load_folder(root)


def test_a_class_emptied_by_exclusion_stops(make_folder):
    root = make_folder({"a": 20, "b": 20, "c": 0})
    (root / "c" / "bad.png").write_text("text")
    with pytest.raises(DataError, match="Nothing is left of class 'c'"):
        load_folder(root)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "holds no images in 0 folders; put at least three images of each class"),
        ({"a": 0, "b": 0}, "holds no images in 2 folders"),
        ({".": 5}, "holds 5 images outside of class folders and none inside"),
        ({"a": 9}, "only one class, 'a' 9"),
        ({"a": 1, "b": 1}, "'a' 1, 'b' 1; at least 3 per class are needed"),
        ({"a": 9, "b": 2}, "'b' 2; at least 3 per class are needed"),
        ({"train/a": 9, "train/b": 9, "val/a": 2}, "class 'b' has images elsewhere but none in validation"),
        ({"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 1, "test/c": 1}, r"class 'c' .* none in train"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "valid/b": 1}, "two mean the same split"),
        (
            {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1, "extra/a": 1},
            "beside 'extra'; move those out",
        ),
        ({"Cat": 3, "cat": 3}, "case or Unicode form only"),
        ({"train/Cat": 3, "train/dog": 3, "test/cat": 3, "test/dog": 3}, "case or Unicode form only"),
    ],
)
def test_folders_nothing_can_be_learnt_from_are_refused(make_folder, parts, message):
    with pytest.raises(DataError, match=message):
        load_folder(make_folder(parts))


def test_what_was_passed_over_is_told(make_folder, draw):
    root = make_folder({"a": 3, "b": 3, "empty": 0})
    draw(root / "stray.png", 99)
    (root / ".hidden").mkdir()
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "out.png").symlink_to("/etc/hostname")
    told = "\n".join(load_folder(root).notes)
    for part in (
        "Hidden or system files and folders, ignored: 1.",
        "Links that lead out of the folder, to another folder or nowhere, not followed: 1.",
        "Files without an image suffix, ignored: 1.",
        "Images outside of class folders, ignored: 1.",
        "Folders without images are no classes: 'empty'.",
    ):
        assert part in told


def test_copies_across_classes_are_told_and_strict_refuses_them(make_folder):
    root = make_folder({"a": 6, "b": 6})
    shutil.copy(root / "a" / "000.png", root / "b" / "copy.png")
    assert "Images that occur in several classes: 1" in load_folder(root).notes[0]
    with pytest.raises(DataError, match="Remove the copies"):
        load_folder(root, strict=True)


def test_copies_across_given_splits_are_told(make_folder):
    root = make_folder({"train/a": 6, "train/b": 6, "test/a": 3, "test/b": 3})
    os.link(root / "train" / "a" / "000.png", root / "test" / "a" / "link.png")
    assert any(
        "several splits: 1, 'test/a/link.png' = 'train/a/000.png'" in note for note in load_folder(root).notes
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_copies_within_a_class_never_straddle_carved_splits(make_folder, seed):
    root = make_folder({"a": 8, "b": 8})
    for index in range(8):
        shutil.copy(root / "a" / f"{index:03d}.png", root / "a" / f"copy{index:03d}.png")
    place = {
        name: part for part, split in load_folder(root, seed=seed).splits.items() for name in split.names
    }
    for index in range(8):
        assert place[f"a/{index:03d}.png"] == place[f"a/copy{index:03d}.png"]


def test_tiny_images_are_told_and_oblong_ones_load(make_folder):
    root = make_folder({"a": 4, "b": 4})
    Image.new("L", (1, 1), 9).save(root / "a" / "dot.png")
    Image.new("1", (1, 5000), 1).save(root / "b" / "line.png")
    task = load_folder(root)
    assert task.notes == ("Images with a side under 16 pixels (such as 1×1), enlarged: 2.",)


def test_small_images_are_not_mirrored_by_default(make_folder):
    root = make_folder({"a": 4, "b": 4})
    assert load_folder(root).mirror_free is False
    for file in root.rglob("*.png"):
        Image.open(file).resize((80, 70)).save(file)
    assert load_folder(root).mirror_free is True


def test_names_that_are_no_utf8_load(make_folder):
    root = make_folder({"a": 4})
    folder = os.path.join(os.fsencode(root), b"caf\xe9")
    shutil.copytree(os.fsencode(root / "a"), folder)
    for index, name in enumerate(sorted(os.listdir(folder))):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(os.fsdecode(os.path.join(folder, name)))
    task = load_folder(root)
    assert task.classes == ("a", "caf\\xe9")
    assert {split.image(0).mode for split in task.splits.values()} == {"RGB"}


def test_fingerprint_and_split_follow_content_seed_and_labels_only(make_folder, tmp_path):
    root = make_folder({"a": 8, "b": 8})
    first = load_folder(root)
    assert load_folder(root).fingerprint == first.fingerprint
    assert load_folder(root).test.names == first.test.names
    assert load_folder(root, seed=1).fingerprint != first.fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert load_folder(moved).fingerprint == first.fingerprint
    Image.new("RGB", (20, 24)).save(moved / "a" / "000.png")
    assert load_folder(moved).fingerprint != first.fingerprint
    (root / "a" / "000.png").rename(root / "b" / "new.png")
    assert load_folder(root).fingerprint != first.fingerprint


def test_a_missing_folder_is_wrong_use_and_creates_nothing(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_task(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []
