"""The LDA probe equals fitting the discriminant again without each sample."""

import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds, rotation
from torchard.select.lda_probe import lda_in_sample, lda_probe, lda_terms


def contract_case() -> MeasureCase:
    rows, targets = clouds(noise=2.0)
    return MeasureCase(lda_probe, rows.float(), targets)


def refitted(rows: torch.Tensor, targets: torch.Tensor, left_out: int) -> float:
    """The log-probability of one sample, with means and scatter computed anew without it."""
    n, d = rows.shape
    classes = targets.unique()

    def residuals(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[y == c] - x[y == c].mean(dim=0) for c in classes])

    whole = residuals(rows, targets)
    share = float(ledoit_wolf_shrinkage(whole.numpy(), assume_centered=True))
    scale = whole.square().sum() / (n * d)
    keep = torch.arange(n) != left_out
    x, y = rows[keep], targets[keep]
    scatter = residuals(x, y).T @ residuals(x, y)
    precision = torch.linalg.inv((1 - share) / n * scatter + share * scale * torch.eye(d))
    logits = []
    for c in classes:
        gap = rows[left_out] - x[y == c].mean(dim=0)
        logits.append(-0.5 * gap @ precision @ gap + (targets == c).double().mean().log())
    return torch.stack(logits).log_softmax(dim=0)[classes.tolist().index(targets[left_out].item())].item()


@pytest.mark.parametrize("shape", [(45, 5), (18, 30)], ids=str)
def test_equals_refitting_without_each_sample(shape):
    rows, targets = clouds(*shape, noise=1.5)
    expected = [refitted(rows, targets, i) for i in range(len(rows))]
    torch.testing.assert_close(lda_terms(rows, targets), torch.tensor(expected, dtype=torch.float64))


def test_left_out_is_humbler_than_in_sample():
    rows, targets = clouds(30, 20, noise=3.0)
    assert lda_probe(rows, targets) < lda_in_sample(rows, targets).mean().item() <= 0


def test_rotation_and_shift_do_not_matter():
    rows, targets = clouds(60, 5, noise=2.0)
    assert lda_probe(rows @ rotation(5) + 3, targets) == pytest.approx(lda_probe(rows, targets))


def test_samples_alone_in_their_class_are_not_asked():
    rows, targets = clouds(30, 4)
    targets[0] = 7
    assert len(lda_terms(rows, targets)) == 29
    with pytest.raises(ValueError, match="one sample of each class"):
        lda_probe(rows[:4], torch.arange(4))
