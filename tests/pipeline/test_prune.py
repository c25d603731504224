"""The recovery after the cut."""

import timm
import torch

from torchard.core.callback import TrainingRun
from torchard.core.data import Batch
from torchard.pipeline.prune import Settled
from torchard.tune.tune_mode import mode_of


def test_lower_layers_are_frozen_in_the_second_half_and_free_at_the_end():
    model = timm.create_model("resnet18", num_classes=2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = TrainingRun(model, optimizer, torch.Generator(), lambda **metrics: None)
    batch, settled = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1).long(), torch.zeros(1).long()), Settled()
    settled.on_batch(run, batch)
    assert all(parameter.requires_grad for parameter in model.parameters())
    run.fraction = 0.5
    settled.on_batch(run, batch)
    assert not model.conv1.weight.requires_grad
    assert model.layer4[1].conv2.weight.requires_grad
    assert (model.bn1.training, model.layer4[1].bn2.training) == (False, True)
    assert mode_of(model)["bn1"] == "tune"
    settled.on_fit_end(run)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert mode_of(model)["bn1"] == "eval"
