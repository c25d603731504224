"""Tune mode on whole models: Eval mode's numbers, Deploy mode's memory, nothing left behind."""

import copy
import io
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tests.contracts.cases import TransformCase
from torchard.core.budget import activation_bytes
from torchard.core.checkpoint import load_into, load_tensors, save_tensors
from torchard.tune import NothingToSaveError, tune_mode
from torchard.tune.pairs import ConvBN
from torchard.tune.statistics import hold_statistics_


def network(name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    return model


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs_and_gradients(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = model(images())
    output.square().sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
@pytest.mark.parametrize("example", [images(1), None], ids=["watched", "traced"])
def test_outputs_and_gradients_are_those_of_eval_mode(name, example):
    model = network(name)
    keys, expected = list(model.state_dict()), outputs_and_gradients(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = tune_mode.set_mode(model, "tune", example=example)
    assert report.pairs
    found = outputs_and_gradients(model)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    for key, gradient in expected[1].items():
        assert (found[1][key] - gradient).abs().max() <= 1e-10 * gradient.abs().max()
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    tune_mode.detach(model)
    assert torch.equal(outputs_and_gradients(model)[0], expected[0])
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules()
    )


@pytest.mark.parametrize(("batch", "size"), [(4, 224), (8, 64)])
def test_resnet18_keeps_what_deploy_mode_keeps(batch, size):
    model, example = timm.create_model("resnet18").eval(), torch.randn(batch, 3, size, size)
    before = activation_bytes(model, example)
    tune_mode.attach(model)
    tuned = activation_bytes(model, example)
    tune_mode.merge(model)
    assert tuned == activation_bytes(model, example)
    assert tuned <= 0.56 * before


def test_report_tells_pairs_ratio_and_reasons():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.late = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.late(self.bn(self.conv(inputs)).relu())

    report = tune_mode.set_mode(Mixed().eval(), "tune", example=torch.randn(2, 3, 9, 9))
    assert report.pairs == (ConvBN("conv", "bn"),)
    assert list(report.skipped) == ["late"]
    assert 0 < report.saved_ratio < 1
    assert str(report).startswith("tune: 1 pairs of convolution and batch norm, 0.")
    assert report.to_json()["pairs"] == [["conv", "bn", 1]]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_deploy_gives_the_same_output_and_goes_back_bit_for_bit(name):
    model = network(name)
    with torch.no_grad():
        expected, keys = model(images()), list(model.state_dict())
        tune_mode.set_mode(model, "deploy")
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-12)
        assert set(tune_mode.mode_of(model).values()) == {"deploy"}
        tune_mode.set_mode(model, "eval")
        assert torch.equal(model(images()), expected)
    assert list(model.state_dict()) == keys


def test_a_norm_in_train_mode_computes_and_updates_as_ever():
    plain, tuned = network(), network()
    tune_mode.attach(tuned)
    with pytest.warns(UserWarning, match="saves nothing while batch norms are in train mode"):
        torch.testing.assert_close(tuned.train()(images(4)), plain.train()(images(4)))
    for (name, value), other in zip(plain.named_buffers(), tuned.buffers(), strict=True):
        assert torch.equal(value, other), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned(images(4))  # said once
    assert set(tune_mode.mode_of(tuned).values()) == {"train"}
    hold_statistics_(tuned)
    assert set(tune_mode.mode_of(tuned).values()) == {"tune"}


def test_train_and_eval_put_the_norms_into_that_mode():
    model = network()
    tune_mode.set_mode(model, "train")
    assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert not model.training
    tune_mode.set_mode(model, "eval")
    assert set(tune_mode.mode_of(model).values()) == {"eval"}


class Shared(nn.Module):
    """One convolution called twice, with a norm of its own for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        nn.init.normal_(self.first.weight)
        nn.init.normal_(self.second.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(images)).relu()))


def test_a_convolution_shared_by_two_norms_is_computed_with_each():
    model = Shared().double().eval()
    expected = model(images())
    tune_mode.attach(model)
    for _ in range(2):
        torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="conv feeds several batch norms"):
        tune_mode.merge(model)
    torch.testing.assert_close(model(images()), expected, rtol=0, atol=0)


def test_a_norm_called_alone_still_normalises():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    tune_mode.attach(model)
    maps = torch.randn(2, 4, 3, 3)
    model[1].running_mean.fill_(2.0)
    expected = nn.functional.batch_norm(maps, model[1].running_mean, model[1].running_var, eps=model[1].eps)
    torch.testing.assert_close(model[1](maps), expected)


def test_flow_that_changes_with_the_data_is_told():
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            maps = self.conv(inputs)
            return self.bn(maps) if inputs.mean() > 0 else maps

    model = Fickle().eval()
    tune_mode.attach(model, example=torch.ones(1, 3, 2, 2))
    with pytest.raises(RuntimeError, match="output of conv did not go into bn"):
        model(-torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(model(torch.ones(1, 3, 2, 2)), Fickle.forward(model, torch.ones(1, 3, 2, 2)))


def test_only_pairs_below_the_wanted_modules_are_switched():
    model = network()
    report = tune_mode.set_mode(model, "tune", modules=["layer1"])
    assert report.pairs
    assert all(pair.bn.startswith("layer1.") for pair in report.pairs)


def test_a_copy_and_a_pickle_are_independent_and_still_in_tune_mode():
    model = tune_mode.attach(network())
    expected = model(images())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert set(tune_mode.mode_of(twin).values()) == {"tune"}
        twin.conv1[0].weight.data.zero_()
        assert not torch.equal(twin(images()), expected)
        assert torch.equal(model(images()), expected)


def test_compiled_in_one_graph_it_gives_the_same(untyped):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double().eval()
    expected = outputs_and_gradients(model)
    tune_mode.attach(model)
    found = outputs_and_gradients(torch.compile(model, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    for key, gradient in found[1].items():
        torch.testing.assert_close(
            gradient, expected[1][key.removeprefix("_orig_mod.")], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("backend", ["aot_eager", "aot_eager_decomp_partition"])
def test_compiled_it_keeps_what_deploy_mode_keeps(untyped, backend):
    """With and without the partitioner that weighs what to keep; the scaled weights alone are 160 kB."""

    def build() -> nn.Module:
        pairs = [nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(2)]
        return nn.Sequential(*pairs).eval()

    example, kept = torch.randn(1, 64, 7, 7), {}
    for mode in ("eval", "tune", "deploy"):
        torch._dynamo.reset()  # else it counts all these models as recompilations of one
        model = build()
        tune_mode.set_mode(model, mode)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        kept[mode] = activation_bytes(compiled, example)
        with torch.no_grad():
            torch.testing.assert_close(compiled(example), model(example))
    assert kept["tune"] == kept["deploy"] < kept["eval"]
    plain = torch.compile(tune_mode.attach(build(), recompute=False), backend="aot_eager")
    assert activation_bytes(plain, example) > kept["eval"]


def test_exported_it_holds_no_mark_of_recomputation(untyped):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    tune_mode.attach(model)
    example = torch.randn(1, 3, 6, 6)
    program = torch.export.export(model, (example,))
    torch.testing.assert_close(program.module()(example), model(example))
    assert not any("checkpoint" in str(node.target) for node in program.graph.nodes)


def test_step_amplification_is_one_over_the_squared_scale():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, eps=0.0)).eval()
    model[1].running_var.copy_(torch.tensor([4.0, 1.0]))
    model[1].weight.data.copy_(torch.tensor([1.0, 0.0]))
    assert tune_mode.deploy_step_amplification(model)["0"].tolist() == [4.0, float("inf")]


def test_refusals(untyped):
    with pytest.raises(tune_mode.NoPairsError, match="Linear has no convolution"):
        tune_mode.attach(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="must be one of train, eval, tune, deploy"):
        tune_mode.set_mode(network(), "fast")
    model = network()
    tune_mode.set_mode(model, "deploy", keep_original=False)
    with pytest.raises(ValueError, match="originals were not kept"):
        tune_mode.set_mode(model, "eval")
    sick = network()
    sick.layer1[0].bn1.running_var[0] = -1.0
    before = list(sick.state_dict())
    with pytest.raises(ValueError, match=r"layer1\.0\.bn1: `bn` has a running variance"):
        tune_mode.merge(sick)
    assert list(sick.state_dict()) == before
    with pytest.raises(NothingToSaveError):
        tune_mode.save(network(), Path("x"))


def test_the_trainer_tunes_in_tune_mode_and_leaves_a_plain_model():
    from torchard.core.trainer import Batch, Trainer

    batches = [Batch(images(4).float(), torch.arange(4) % 3, torch.arange(4))]
    losses = {}
    for callbacks in ([tune_mode.TuneMode()], []):
        model = network().float()
        seen: list[float] = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def criterion(outputs: torch.Tensor, targets: torch.Tensor, seen: list[float] = seen) -> torch.Tensor:
            loss = nn.functional.cross_entropy(outputs, targets)
            seen.append(loss.item())
            return loss

        from torchard.tune.statistics import HeldStatistics

        Trainer(
            model, criterion, optimizer, batches, epochs=3, callbacks=callbacks or [HeldStatistics()]
        ).fit()
        losses[bool(callbacks)] = seen
        assert not any("forward" in module.__dict__ for module in model.modules())
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def _frozen_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), FrozenBatchNorm2d(4)
    )


def contract_case() -> TransformCase:
    return TransformCase(
        build=_frozen_network,
        inputs=torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        apply=tune_mode.attach,
        undo=tune_mode.detach,
        save=lambda model, path: save_tensors(path, model.state_dict()),
        load=lambda model, path: tune_mode.attach(_loaded(model, path)),
    )


def _loaded(model: nn.Module, path: Path) -> nn.Module:
    load_into(model, load_tensors(path)[0])
    return model
