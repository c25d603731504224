import numpy as np
from sklearn.datasets import load_digits

from torchard.core.data import load_task


def test_every_digit_of_scikit_learn_is_in_one_split():
    data, task = load_digits(), load_task("digits")
    assert [len(split) for split in task.splits.values()] == [1146, 201, 450]
    seen = set()
    for split in task.splits.values():
        for row, name in enumerate(split.names):
            number = int(name.removeprefix("digits-"))
            seen.add(number)
            assert split.targets[row] == data.target[number]
            if row < 20:
                grey = np.asarray(split.image(row))[:, :, 0] * (16 / 255)
                np.testing.assert_allclose(grey, data.images[number], atol=0.04)
    assert len(seen) == 1797


def test_classes_are_the_digits_in_order_and_not_mirrored():
    task = load_task("digits")
    assert task.classes == tuple("0123456789")
    assert (task.orientation_free, task.mirror_free, task.metric) == (False, False, "accuracy")
