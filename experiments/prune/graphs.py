"""Graph networks of torch_geometric."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from experiments.prune.subject import Subject

Build = Callable[[], Any]
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 3], [1, 2, 3, 4, 5, 0, 3, 0]])


class TwoLayers(nn.Module):
    """Two message-passing layers and a nonlinearity."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(nodes, edges)), edges)


def _two(first: Callable[[], nn.Module], second: Callable[[], nn.Module]) -> Build:
    return lambda: Subject(TwoLayers(first(), second()), (torch.randn(6, 10), EDGES))


def _perceptron(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


MODELS: dict[str, Build] = {
    "gcn": _two(lambda: GCNConv(10, 16), lambda: GCNConv(16, 4)),
    "gat": _two(lambda: GATConv(10, 8, heads=2), lambda: GATConv(16, 4)),
    "sage": _two(lambda: SAGEConv(10, 16), lambda: SAGEConv(16, 4)),
    "gin": _two(lambda: GINConv(_perceptron(10, 16)), lambda: GINConv(_perceptron(16, 4))),
}
