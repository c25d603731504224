"""The contrastive loss at its known values."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from torchard.nn.dual_encoder import contrastive_loss


def test_without_positives_it_is_the_loss_of_clip():
    similarity = torch.randn(5, 5).double()
    labels = torch.arange(5)
    expected = (cross_entropy(similarity, labels) + cross_entropy(similarity.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(similarity), expected)


def test_certain_matches_cost_nothing_and_a_constant_matrix_ln_n():
    assert contrastive_loss(100 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert contrastive_loss(torch.full((7, 7), 3.0)).item() == pytest.approx(math.log(7))


def test_identical_captions_have_the_entropy_as_floor_and_no_gradient_there():
    similarity = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(similarity, torch.ones(6, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(6))
    assert similarity.grad.abs().max() < 1e-12
    worse = contrastive_loss(torch.randn(6, 6).double(), torch.ones(6, 6, dtype=torch.bool))
    assert worse > loss


def test_several_texts_for_a_video_need_no_square_matrix():
    positives = torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    assert contrastive_loss(100 * positives.double(), positives).item() == pytest.approx(math.log(2) / 4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="must be square"):
        contrastive_loss(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="without a match"):
        contrastive_loss(torch.zeros(2, 2), torch.tensor([[True, False], [True, False]]))
