import numpy as np
import torch

from torchard.core.data.listing import Listing, make_task
from torchard.core.data.split import ArrayImages


def listing(digests: str = "uvw") -> Listing:
    return Listing(
        images=ArrayImages(np.arange(3, dtype=np.uint8).reshape(3, 1, 1)),
        names=["n0", "n1", "n2"],
        labels=["b", "a", "b"],
        digests=list(digests),
        sizes=[(1, 1)] * 3,
        soft_targets=torch.eye(2)[[1, 0, 1]],
    )


def make(parts: list[str], digests: str = "uvw"):
    return make_task(listing(digests), parts, name="t", spec="t", classes=["a", "b"], metric="auroc")


def test_each_row_goes_to_its_part():
    task = make(["test", "train", "validation"])
    assert [split.names for split in task.splits.values()] == [("n1",), ("n2",), ("n0",)]
    assert [split.targets.tolist() for split in task.splits.values()] == [[0], [1], [1]]
    assert task.test.soft_targets.tolist() == [[0.0, 1.0]]


def test_the_fingerprint_sees_parts_and_content():
    prints = {
        make(["test", "train", "validation"]).fingerprint,
        make(["train", "test", "validation"]).fingerprint,
        make(["test", "train", "validation"], digests="uvx").fingerprint,
    }
    assert len(prints) == 3
