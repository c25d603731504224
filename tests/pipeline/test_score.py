"""Confusions and mistakes, counted by hand."""

import numpy as np
import torch

from torchard.core.data.split import ArrayImages, Split
from torchard.pipeline.score import most_confused, surest_mistakes

CLASSES = ("ant", "bee", "cat")


def split_of(targets: list[int]) -> Split:
    pixels = np.zeros((len(targets), 200, 100), dtype=np.uint8)
    names = tuple(f"{index}.png" for index in range(len(targets)))
    return Split(ArrayImages(pixels), torch.tensor(targets), names)


def test_the_most_confused_pair_comes_first_with_its_share_of_the_class():
    split = split_of([0, 0, 0, 0, 1, 2])
    found = most_confused(torch.tensor([1, 1, 2, 0, 1, 0]), split, CLASSES)
    assert found[0] == {"true": "ant", "predicted": "bee", "count": 2, "share": 0.5}
    assert {(row["true"], row["predicted"]) for row in found[1:]} == {("ant", "cat"), ("cat", "ant")}


def test_the_surest_mistake_comes_first_and_right_answers_are_none():
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 9.0, 0.0], [5.0, 0.0, 0.0]])
    found = surest_mistakes(split_of([0, 0, 0]), logits, CLASSES)
    assert [row["name"] for row in found] == ["1.png", "0.png"]
    assert found[0]["predicted"] == "bee"
    assert found[0]["thumbnail"].startswith("data:image/jpeg;base64,")
