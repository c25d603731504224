import torch

from torchard.core.data import Batch


def test_replace_leaves_the_batch_as_it_was():
    batch = Batch(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([5, 7]))
    changed = batch.replace(inputs=torch.ones(2, 3))
    assert batch.inputs.sum() == 0
    assert changed.inputs.sum() == 6
    assert changed.indices is batch.indices
    assert len(changed) == 2
