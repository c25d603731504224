from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from torchard.core.data import load_task
from torchard.core.data.mnist import ASSET, read_asset
from torchard.core.errors import DataError, FileRefusedError, UsageError


def asset() -> bytes:
    return (files("torchard.core.data") / "assets" / ASSET).read_bytes()


def test_the_packed_digits_are_the_ten_thousand_first_of_mnist():
    pixels, labels = read_asset(asset())
    assert len(asset()) <= 3 << 20
    assert pixels.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert len({image.tobytes() for image in pixels}) == 10_000


def test_the_packed_digits_are_shuffled():
    _, labels = read_asset(asset())
    for start in range(0, 10_000, 1000):
        assert np.bincount(labels[start : start + 1000], minlength=10).min() > 60


def test_a_changed_byte_is_refused_with_both_digests():
    data = bytearray(asset())
    data[1000] ^= 1
    with pytest.raises(FileRefusedError, match=r"SHA-256 [0-9a-f]{64}, expected c9a2e842"):
        read_asset(bytes(data))


def test_digits_of_a_class_look_alike():
    task = load_task("mnist")
    images = (
        np.stack([np.asarray(task.train.image(row))[:, :, 0] for row in range(1500)]).reshape(1500, -1)
        / 255.0
    )
    targets = task.train.targets[:1500].numpy()
    means = np.stack([images[:1000][targets[:1000] == digit].mean(axis=0) for digit in range(10)])
    nearest = ((images[1000:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == targets[1000:]).mean() > 0.7


def test_the_task_has_three_stratified_splits():
    task = load_task("mnist")
    assert [len(split) for split in task.splits.values()] == [6375, 1124, 2501]
    assert not task.mirror_free


@pytest.fixture
def fake_torchvision(monkeypatch):
    asked = []

    def fake(root: str, *, train: bool, download: bool) -> SimpleNamespace:
        asked.append((root, train, download))
        count = 60 if train else 20
        values = torch.arange(count, dtype=torch.uint8)[:, None, None].expand(count, 28, 28)
        return SimpleNamespace(data=values + 100 * (not train), targets=torch.arange(count) % 10)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    return asked


def test_the_full_set_keeps_its_own_test_split(fake_torchvision, tmp_path):
    task = load_task("mnist:full", root=tmp_path)
    assert fake_torchvision == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert [len(split) for split in task.splits.values()] == [50, 10, 20]
    assert {task.test.image(row).getpixel((0, 0))[0] for row in range(20)} == set(range(100, 120))


@pytest.mark.parametrize("error", [RuntimeError("Error downloading\nx"), OSError("no route")])
def test_without_network_the_full_set_points_to_the_packed_one(monkeypatch, tmp_path, error):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(DataError, match=r"cannot be downloaded .*; use mnist, which needs no network"):
        load_task("mnist:full", root=tmp_path)


def test_another_variant_is_wrong_use():
    with pytest.raises(UsageError, match="choose mnist or mnist:full"):
        load_task("mnist:tiny")
