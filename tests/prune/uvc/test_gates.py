"""Gates: their shares, their decisions, and how they sit in a model."""

import copy
import math

import pytest
import torch

from tests.prune.uvc.models import DEPTH, images, small_vit
from torchard.core.errors import UsageError
from torchard.prune.uvc import Gates, attach
from torchard.prune.uvc.gates import gumbel_keep, l0_keep, strip

NAMES = [f"blocks.{number}" for number in range(DEPTH)]


def test_without_noise_a_gate_is_a_softmax_at_half_temperature():
    share = gumbel_keep(torch.tensor([[-1.0, 1.0]]), torch.zeros(1, 2)).item()
    assert share == pytest.approx(1 / (1 + math.exp(-4)))


def test_the_noise_is_gumbels():
    gates = Gates(20_000, seed=3)
    gates.draw()
    assert gates.noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert gates.noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_an_l0_gate_sharpens_with_the_epochs():
    logits = torch.tensor([[-1.0, 0.1]])
    assert l0_keep(logits, 0).item() == pytest.approx(0.01 / 0.11)
    assert l0_keep(logits, 50).item() > 0.8


def test_blocks_stay_whose_keep_is_above_their_skip_and_one_always_does():
    gates = Gates(2)
    gates.logits = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    assert gates.hard().tolist() == [False, True]
    gates.logits = torch.tensor([[1.0, 0.5], [1.0, 0.0]])
    assert gates.hard().tolist() == [True, False]


def test_in_eval_mode_an_open_gate_changes_no_bit_and_a_closed_one_skips():
    model = small_vit().eval()
    plain = model(images())
    gates = Gates(DEPTH)
    attachment = attach(model, gates, NAMES)
    assert torch.equal(model(images()), plain)
    gates.logits = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    without = small_vit().eval()
    del without.blocks[1]
    torch.testing.assert_close(model(images()), without(images()))
    attachment.remove()
    assert torch.equal(model(images()), plain)


@pytest.mark.parametrize("kind", ["gumbel", "l0"])
def test_training_mixes_a_block_with_its_own_input_and_the_gate_gets_the_gradient(kind):
    model = small_vit().train()
    gates = Gates(DEPTH, kind, seed=1)
    attach(model, gates, NAMES)
    seen = {}
    model.blocks[1].register_forward_hook(lambda _, given, out: seen.update(x=given[0], y=out))
    model(images()).square().sum().backward()
    share = gates.soft()[1].detach()
    mixed = share * model.blocks[1].forward(seen["x"]) + (1 - share) * seen["x"]
    torch.testing.assert_close(seen["y"], mixed)
    assert gates.logits.grad.abs().sum(dim=1).gt(0).all()
    assert gates.backpropagated


def test_while_warming_up_every_block_counts_half():
    gates = Gates(DEPTH)
    gates.warm = True
    assert gates.soft().tolist() == [0.5] * DEPTH


def test_each_forward_pass_draws_anew_and_seeds_repeat():
    def draws(seed: int) -> list[list[float]]:
        gates, model = Gates(DEPTH, seed=seed), small_vit().train()
        attach(model, gates, NAMES)
        found = []
        for _ in range(2):
            model(images(1))
            found.append(gates.soft().tolist())
        return found

    first = draws(0)
    assert first[0] != first[1]
    assert draws(0) == first
    assert draws(1) != first


def test_the_gates_are_in_no_parameter_and_no_state_of_the_model():
    model = small_vit()
    names = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    attach(model, Gates(DEPTH), NAMES)
    assert (list(model.state_dict()), [name for name, _ in model.named_parameters()]) == names


def test_a_copy_can_be_freed_of_gates():
    model = small_vit().train()
    attach(model, Gates(DEPTH), NAMES)
    twin = copy.deepcopy(model)
    strip(twin)
    assert torch.equal(twin.eval()(images()), small_vit().eval()(images()))
    assert any(module._forward_hooks for module in model.modules())


def test_one_step_is_that_of_torch():
    gates, gradient = Gates(2), torch.tensor([[0.3, -0.1], [0.0, 2.0]])
    reference = gates.logits.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([reference], lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(3):
        gates.update(gradient, lr=0.1)
        reference.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(gates.logits, reference)


def test_state_survives():
    gates = Gates(DEPTH, seed=5)
    gates.draw()
    gates.update(torch.ones(DEPTH, 2), lr=0.1)
    twin = Gates(DEPTH, seed=6)
    twin.load_state_dict(gates.state_dict())
    gates.draw(), twin.draw()
    assert torch.equal(gates.soft(), twin.soft())
    assert torch.equal(gates.momentum, twin.momentum)


def test_half_precision_without_scaled_gates_is_refused():
    model = small_vit().half().train()
    attach(model, Gates(DEPTH), NAMES)
    with pytest.raises(UsageError, match="bf16"):
        model(images().half())


def test_an_unknown_gate_is_refused():
    with pytest.raises(Exception, match=r"'gumbel'.*'l0'"):
        Gates(2, "swing")  # type: ignore[arg-type]
