"""A cut that would not run is told before the model is touched."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tests.prune.depgraph.networks import Residual
from torchard.prune.depgraph import IterativePruner, plan, prune, rehearse, trace


class Hidden(nn.Module):
    """Keeps a width where no trace looks: as text, compared with a plain integer."""

    def __init__(self, *, looks_at_values: bool = False) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.settings, self.looks_at_values = {"width": "8"}, looks_at_values

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        if self.looks_at_values and inputs.sum().item() > 1e9:
            return hidden
        if int(hidden.shape.numel()) // len(inputs) != int(self.settings["width"]):
            raise RuntimeError("of another width")
        return self.head(hidden)


@pytest.mark.parametrize("cut", [prune, lambda m, x, ratio: IterativePruner(m, x, 1, ratio=ratio).step()])
def test_a_width_the_trace_cannot_see_is_told_and_nothing_cut(cut):
    model, inputs = Hidden(), torch.randn(4, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"Hidden would not run .* of another width"):
        cut(model, inputs, ratio=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_cut_that_runs_is_passed_and_the_model_left_alone():
    for model, inputs in (
        (Residual(), torch.randn(2, 3, 6, 6)),
        (timm.create_model("test_vit", num_classes=3), torch.randn(1, 3, 160, 160)),
    ):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        rehearse(model, plan(trace(model, inputs), ratio=0.5), inputs)
        after = model.state_dict()
        assert model.training
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert not any(isinstance(tensor, FakeTensor) for tensor in after.values())


def test_where_values_decide_nothing_is_said():
    model, inputs = Hidden(looks_at_values=True), torch.randn(4, 3)
    rehearse(model, plan(trace(model, inputs), ratio=0.5), inputs)
