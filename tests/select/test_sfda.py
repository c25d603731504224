"""SFDA against its definition with a full generalised eigenproblem."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.contracts.cases import MeasureCase
from tests.select.tasks import clouds, rotation
from torchard.select.sfda import sfda


def contract_case() -> MeasureCase:
    rows, targets = clouds(noise=2.0)
    return MeasureCase(sfda, rows.float(), targets)


def log_probabilities(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    means = np.stack([rows[targets == c].mean(axis=0) for c in range(3)])
    shares = np.bincount(targets) / len(targets)
    within = (rows - means[targets]).T @ (rows - means[targets]) / len(rows)
    gaps = means - rows.mean(axis=0)
    between = (gaps.T * shares) @ gaps
    share = np.exp(-np.linalg.eigvalsh(within)[-1])
    mixed = (1 - share) * within + share * np.eye(len(within))
    directions = scipy.linalg.eigh(between, mixed)[1][:, -2:]
    logits = (rows @ directions) @ (means @ directions).T
    logits = logits - np.square(means @ directions).sum(axis=1) / 2 + np.log(shares)
    logits -= scipy.special.logsumexp(logits, axis=1, keepdims=True)
    return logits[np.arange(len(targets)), targets]


def test_equals_the_definition():
    rows, targets = (tensor.numpy() for tensor in clouds(60, 5, noise=1.5))
    confidence = np.exp(log_probabilities(rows, targets))[:, None]
    means = np.stack([rows[targets == c].mean(axis=0) for c in range(3)])
    others = np.stack([means[[c for c in range(3) if c != own]].mean(axis=0) for own in range(3)])
    mixed = confidence * rows + (1 - confidence) * others[targets]
    expected = log_probabilities(mixed, targets).mean()
    assert sfda(*clouds(60, 5, noise=1.5)) == pytest.approx(expected, rel=1e-6)


def test_rotation_shift_and_padding_do_not_matter():
    rows, targets = clouds(60, 5, noise=2.0)
    score = sfda(rows, targets)
    assert score <= 0
    assert sfda(rows @ rotation(5) + 4, targets) == pytest.approx(score)
    assert sfda(torch.cat([rows, torch.zeros(60, 80)], dim=1), targets) == pytest.approx(score, rel=1e-5)


def test_separated_classes_score_near_zero():
    rows, targets = clouds(60, 5, noise=0.01)
    assert sfda(30 * rows, targets) == pytest.approx(0, abs=1e-3)
