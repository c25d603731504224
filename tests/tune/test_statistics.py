"""Batch norms whose statistics are held do not move, in a plain loop and in the Trainer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from torchard.core.trainer import Batch, Trainer
from torchard.tune.statistics import HeldStatistics, hold_statistics_


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2))


def statistics(network: nn.Module) -> torch.Tensor:
    return torch.cat([network[1].running_mean, network[1].running_var])


def test_held_statistics_stay_and_everything_else_trains():
    network = model().train()
    before = statistics(network).clone()
    hold_statistics_(network)
    network(torch.randn(8, 3, 4, 4) + 5)
    assert torch.equal(statistics(network), before)
    assert network[2].training
    network.train()
    network(torch.randn(8, 3, 4, 4) + 5)
    assert not torch.equal(statistics(network), before)


def test_a_norm_without_running_statistics_keeps_using_the_batch():
    norm = nn.BatchNorm2d(4, track_running_stats=False).train()
    hold_statistics_(norm)
    assert norm.training


def test_the_trainer_holds_them_over_epochs():
    network = model()
    before = statistics(network).clone()
    batches = [Batch(torch.randn(8, 3, 4, 4) + 5, torch.arange(8) % 2, torch.arange(8)) for _ in range(2)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    Trainer(network, cross_entropy, optimizer, batches, epochs=2, callbacks=[HeldStatistics()]).fit()
    assert torch.equal(statistics(network), before)
