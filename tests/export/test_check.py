from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchard.core.errors import ExportMismatchError
from torchard.export.check import as_files, compare

FILES = [Path("first.png"), Path("second.png")]
logits = arrays(np.float32, (2, 4), elements=st.floats(-50, 50, width=16))


@given(logits)
def test_equal_answers_agree(answers):
    assert compare(answers, answers.copy(), FILES, atol=1e-3) == 0


@given(logits, st.integers(0, 1))
def test_a_changed_label_never_passes(answers, row):
    other = answers.copy()
    loser = (answers[row].argmax() + 1) % 4
    other[row, loser] = answers[row].max() + 1e-6 * abs(answers[row].max()) + 1e-6
    with pytest.raises(ExportMismatchError, match=FILES[row].name):
        compare(answers, other, FILES, atol=1e9)


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        ([0.0, 1.0], [0.0, 1.0009], True),
        ([0.0, 1.0], [0.0, 1.0040], False),
        ([0.0, 300.0], [0.0, 300.01], True),  # float32 noise of a confident model
        ([0.0, 300.0], [0.0, 301.0], False),
        ([299.0, 300.0], [299.0, 300.02], False),  # allowed of such logits, not of the probabilities
        ([0.0, 1.0], [0.0, float("nan")], False),
    ],
)
def test_how_much_may_differ(ours, theirs, agree):
    arguments = np.array([ours], np.float32), np.array([theirs], np.float32), FILES[:1]
    if agree:
        assert compare(*arguments, atol=1e-3) == pytest.approx(abs(ours[1] - theirs[1]), abs=1e-4)
    else:
        with pytest.raises(ExportMismatchError, match=r"first\.png"):
            compare(*arguments, atol=1e-3)


def test_pictures_in_memory_become_files_with_the_same_pixels():
    from PIL import Image

    from torchard.core.pixels import open_image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
    with as_files([image, Path("given.jpg")]) as (made, given_path):
        assert np.array_equal(np.asarray(open_image(made)), np.asarray(image))
        assert given_path.name == "given.jpg"
    assert not made.exists()
