"""What users of pruning libraries complain of most.

That a pruned model cannot be loaded in a clean process is tested in ``test_store``; the others are here.
"""

import pytest
import timm
import torch
from torch import Tensor, nn

from torchard.core.budget import compare_latency, count_macs, count_params, file_bytes
from torchard.prune.depgraph import apply, load_pruned, plan, save_pruned, trace, verify


def stack(width: int) -> nn.Sequential:
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 1))


def test_the_pruned_model_is_smaller_in_memory_and_on_disk(tmp_path):
    model, images = stack(32), torch.zeros(1, 3, 8, 8)
    save_pruned(model, tmp_path / "whole.safetensors", factory=lambda: stack(32))
    small = apply(model, plan(trace(model, images), ratio=0.5), inplace=False).model
    save_pruned(small, tmp_path / "small.safetensors", factory=lambda: stack(32))
    tensors = 4 * (3 * 16 * 9 + 4 * 16 * 16 * 9 + 5 * 16 + 16 * 3 + 3)
    assert (4 * count_params(small), file_bytes(small)) == (tensors, tensors)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "whole")]
    assert tensors < sizes[0] < 0.3 * sizes[1]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in small.state_dict().values())
    loaded = load_pruned(tmp_path / "small.safetensors", stack(32))
    assert torch.equal(loaded(images), small(images))


def test_the_pruned_model_is_faster():
    """A sixteenth of the operations; timed in turn, and far enough apart for a busy machine."""
    model, images = stack(64), torch.zeros(1, 3, 48, 48)
    small = apply(model, plan(trace(model, images), ratio=0.75), inplace=False).model
    assert count_macs(small, images) < 0.08 * count_macs(model, images)
    assert compare_latency(model, small, images, warmup=2, repeats=9).speedup > 1.5


class Odd(nn.Module):
    """An operation without a rule, and a reshape with sizes written as numbers, beside what can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.odd, self.fixed = nn.Linear(4, 12), nn.Linear(12, 9), nn.Linear(9, 8)
        self.last, self.head = nn.Linear(8, 10), nn.Linear(10, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs))
        odd = torch.linalg.matrix_exp(self.odd(hidden).view(-1, 3, 3)).flatten(1)
        fixed = self.fixed(odd).view(-1, 2, 4).flatten(1)
        return self.head(torch.relu(self.last(fixed)))


def test_an_operation_or_a_reshape_that_is_not_understood_stops_nothing_else():
    model, inputs = Odd(), torch.randn(3, 4)
    graph = trace(model, inputs)
    chosen = plan(graph, ratio=0.5)
    assert chosen.widths == {"first.weight": (12, 6), "last.weight": (10, 5)}
    assert list(graph.unknown) == ["aten.linalg_matrix_exp"]
    assert chosen.frozen["odd.weight:0"] == ["unknown op: aten.linalg_matrix_exp"]
    assert any("view relies on its size" in why for whys in chosen.frozen.values() for why in whys)
    assert verify(model, chosen, inputs).passed


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_the_exported_model_answers_as_the_pruned_one(name):
    images = torch.randn(1, 3, 160, 160)
    model = timm.create_model(name, num_classes=3).eval()
    apply(model, plan(trace(model, images), ratio=0.5))
    program = torch.export.export(model, (images,), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))
