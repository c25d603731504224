"""NCE against the entropy of scikit-learn's contingency counts."""

import pytest
import torch
from sklearn.metrics import mutual_info_score

from tests.contracts.cases import MeasureCase
from torchard.select.nce import nce


def contract_case() -> MeasureCase:
    """Class ids in the first column, where the contract also puts its NaN."""
    sources = torch.arange(60) % 7
    targets = (sources // 2 + torch.arange(60) // 40) % 3
    return MeasureCase(lambda rows, ids: nce(rows[:, 0], ids), sources[:, None].float(), targets)


@pytest.mark.parametrize("seed", range(3))
def test_equals_mutual_information_less_entropy(seed):
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randint(7, (200,), generator=generator)
    targets = (sources + torch.randint(3, (200,), generator=generator)) % 4
    share = torch.bincount(targets).double() / 200
    entropy = -(share * share.log()).sum().item()
    shared = mutual_info_score(targets.numpy(), sources.numpy())
    assert nce(sources, targets) == pytest.approx(shared - entropy)
