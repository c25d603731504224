"""Tracing: what depends on what, what is refused, and that nothing is left behind."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from tests.prune.depgraph.networks import Residual, plain
from torchard.prune.depgraph import apply, plan, plan_for, rule, trace
from torchard.prune.depgraph.rules.registry import RULES

X = torch.zeros(2, 3, 6, 6)


def sizes(model: nn.Module, inputs: Tensor) -> list[int]:
    return [group.size for group in trace(model, inputs).groups()]


def test_vgg_has_one_group_per_convolution():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16 * 25, 24), nn.ReLU(), nn.Linear(24, 3))
    assert sizes(model, torch.zeros(1, 3, 16, 16)) == [8, 16, 24]


def test_a_resnet_stage_shares_one_group():
    graph = trace(timm.create_model("resnet18", num_classes=3), torch.zeros(1, 3, 32, 32))
    trunk = next(group for group in graph.groups() if group.id == "layer2.0.conv2.weight")
    convolutions = {m.name for m in trunk.members if m.role == "out"}
    assert convolutions == {"layer2.0.conv2.weight", "layer2.1.conv2.weight", "layer2.0.downsample.0.weight"}


def test_densenet_convolutions_have_groups_of_their_own():
    model = DenseNet(growth_rate=4, block_config=(2, 3), num_init_features=8, bn_size=2, num_classes=3)
    outs = [
        [m.name for m in group.members if m.role == "out"]
        for group in trace(model, torch.zeros(1, 3, 32, 32)).groups()
    ]
    assert all(len(names) == 1 for names in outs)
    assert len(outs) == 12


def test_the_trunk_of_a_vision_transformer_is_one_group():
    model = timm.create_model("test_vit", num_classes=3)
    graph = trace(model, torch.zeros(1, 3, 160, 160))
    trunk = next(group for group in graph.groups() if group.id.startswith("cls_token"))
    names = {member.name for member in trunk.members}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight", "head.weight"} <= names
    for place in range(len(model.blocks)):
        ends = ("norm1.weight", "attn.proj.weight", "norm2.weight", "mlp.fc2.weight")
        assert {f"blocks.{place}.{end}" for end in ends} <= names
    assert trunk.tags >= {"changes_statistics"}


def test_remove_preview_names_every_position():
    graph = trace(plain(), X)
    last = graph.groups()[-1]
    preview = last.remove_preview([1])
    assert preview["6.weight"] == {0: [1]}
    assert preview["6.bias"] == {0: [1]}
    assert preview["8.weight"] == {1: list(range(36, 72))}


def test_outputs_are_frozen_unless_named_prunable():
    model = nn.Sequential(nn.Linear(4, 6))
    example = torch.zeros(1, 4)
    assert trace(model, example).groups() == []
    assert [group.size for group in trace(model, example, outputs_prunable=[0]).groups()] == [6]
    assert trace(model, example).frozen()["0.weight:0"] == ["model output"]


@pytest.mark.parametrize(
    "inputs",
    [X, (X,), {"inputs": X}],
    ids=["tensor", "tuple", "mapping"],
)
def test_examples_come_in_three_forms(inputs):
    assert len(trace(Residual(), inputs).groups()) == 3


def test_a_forward_function_replaces_the_call():
    graph = trace(Residual(), (), forward=lambda model: model(X))
    assert len(graph.groups()) == 3


class Restless(nn.Module):
    """Changes everything a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(1))
        self.cache: dict[str, Tensor] = {}
        self.calls = 3
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.cache["bias"] = self.layer.bias * 2
        self.calls = self.calls + x.shape[-1]
        self.sizes.append(x.shape[0])
        self.extra = x
        if self.calls > 100:
            raise RuntimeError("too often")
        return self.layer(x + torch.rand_like(x))


def test_tracing_leaves_nothing_behind():
    model = Restless().train()
    held = model.sizes
    state = torch.get_rng_state()
    trace(model, torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.count.item() == 0
    assert model.cache == {}
    assert type(model.calls) is int
    assert model.calls == 3
    assert model.sizes == [1, 2]
    assert model.sizes is held
    assert not hasattr(model, "extra")


def test_a_model_that_raises_is_restored_and_the_cause_is_told():
    model = Restless()
    model.calls = 99
    with pytest.raises(ValueError, match="does not run through Restless: RuntimeError: too often"):
        trace(model, torch.zeros(2, 4))
    assert model.calls == 99
    assert model.cache == {}


def test_an_input_of_the_wrong_shape_is_told():
    with pytest.raises(ValueError, match="does not run through Residual"):
        trace(Residual(), torch.zeros(1, 5, 6, 6))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4), check_trace=False), "scripted"),
        (lambda: torch.compile(nn.Linear(4, 4)), "_orig_mod"),
        (lambda: nn.ReLU(), "no parameters"),
        (lambda: nn.LazyLinear(4), "lazy"),
    ],
    ids=["scripted", "compiled", "empty", "lazy"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_models_that_cannot_be_cut_are_refused_by_kind(model, message):
    with pytest.raises(ValueError, match=message):
        trace(model(), torch.zeros(1, 4))


class Unusual(nn.Module):
    """Uses an operation no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.linalg.qr(self.first(x).unsqueeze(0).expand(6, -1, -1)[:, 0]).Q[:2])


def test_unknown_operations_freeze_what_they_touch_and_are_named():
    graph = trace(Unusual(), torch.zeros(2, 4))
    assert graph.groups() == []
    assert "aten.linalg_qr" in graph.unknown
    assert any("unknown op: aten.linalg_qr" in why for why in graph.frozen().values() for why in why)


def test_users_may_add_rules():
    @rule("aten.linalg_qr")
    def rows_stay(op):
        dims = op.dims("A")
        return [dims, dims] if op.out[1].shape == op.out[0].shape else None

    try:
        assert "aten.linalg_qr" not in trace(Unusual(), torch.zeros(2, 4)).unknown
    except TypeError:
        pytest.fail("a rule that was added was not used")
    except ValueError:
        pass  # this rule does not fit; it was asked, which is the point
    finally:
        del RULES["aten.linalg_qr"]


def test_data_is_followed_to_its_parameter():
    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.first.weight.data), self.second.weight)

    (group,) = trace(Detour(), torch.zeros(1, 4)).groups()
    assert {member.name for member in group.members} == {"first.weight", "second.weight"}


def test_parameters_the_example_never_used_are_named():
    model = Residual()
    model.spare = nn.Linear(3, 3)
    assert trace(model, X).untouched == ("spare.weight", "spare.bias")


def test_ignoring_a_module_a_name_or_a_pattern():
    model = Residual()
    graph = trace(model, X)
    for ignore in ([model.stem], ["stem.0.weight"], ["stem"], ["st*"]):
        assert {group.id for group in graph.groups(ignore)}.isdisjoint({"stem.0.weight"})
        assert len(graph.groups(ignore)) == 2
    with pytest.raises(ValueError, match="no parameter of the model matches"):
        graph.groups(["nothing"])


class WithAuxiliaryHead(nn.Module):
    """A second head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.auxiliary = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = torch.relu(self.first(x))
        return (self.head(hidden), self.auxiliary(hidden)) if self.training else self.head(hidden)


def test_what_only_training_uses_is_cut_along():
    model = WithAuxiliaryHead().eval()
    graph = trace(model, torch.zeros(1, 4))
    assert graph.untouched == ()
    assert [group.size for group in graph.groups()] == [8, 6]
    statistics = model.auxiliary[1].running_mean.clone()
    apply(model, plan(graph, ratio=0.5))
    assert model.auxiliary[0].weight.shape == (3, 4)
    assert torch.equal(model.auxiliary[1].running_mean, statistics[:3])
    sum(out.sum() for out in model.train()(torch.randn(5, 4))).backward()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.LSTM(5, 8, 2, batch_first=True, bidirectional=True), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layers(inputs)[0][:, -1])


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: timm.create_model("test_vit", num_classes=3), torch.randn(2, 3, 160, 160)),
        (Recurrent, torch.randn(2, 4, 5)),
        (Residual, torch.randn(2, 3, 6, 6)),
    ],
    ids=["vit", "lstm", "residual"],
)
def test_a_trace_without_data_finds_the_same(build, inputs):
    torch.manual_seed(0)
    model = build()
    real, fake = (plan(trace(model, inputs, mode=mode), ratio=0.5) for mode in ("real", "fake"))
    assert real == fake
    assert len(apply(model, fake).model(inputs)) == 2


def test_a_model_without_memory_is_planned():
    """Seven gigabytes of weights on the meta device."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(30000, 60000), nn.ReLU(), nn.Linear(60000, 10))
    chosen = plan(trace(model, torch.empty(2, 30000, device="meta")), ratio=0.5, criterion="random")
    assert chosen.params == (30001 * 60000 + 600010, 30001 * 30000 + 300010)


def test_code_that_looks_at_values_cannot_be_traced_without_data():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs) if inputs.sum().item() >= 0 else inputs

    with pytest.raises(ValueError, match="without data; try `mode='real'`"):
        trace(Branch(), torch.zeros(1, 3), mode="fake")


class Flat(nn.Module):
    """A classifier on maps laid out by channel or by place."""

    def __init__(self, *, by_place: bool) -> None:
        super().__init__()
        self.maps, self.head, self.by_place = nn.Conv2d(3, 8, 3), nn.Linear(8 * 16, 2), by_place

    def forward(self, inputs: Tensor) -> Tensor:
        maps = torch.relu(self.maps(inputs))
        return self.head((maps.permute(0, 2, 3, 1) if self.by_place else maps).flatten(1))


def test_both_ways_to_flatten_are_cut_alike():
    channels, places = Flat(by_place=False), Flat(by_place=True)
    places.load_state_dict(channels.state_dict())
    weight = channels.head.weight.detach().view(2, 8, 4, 4)
    places.head.weight.data = weight.permute(0, 2, 3, 1).reshape(2, -1)
    images = torch.randn(2, 3, 6, 6)
    small = [apply(model, plan(trace(model, images), ratio=0.5)).model for model in (channels, places)]
    assert [model.head.in_features for model in small] == [64, 64]
    torch.testing.assert_close(small[0](images), small[1](images))


class Shuffled(nn.Module):
    """Channels mixed between two halves, then a depthwise convolution; or the mix done in the weights."""

    def __init__(self, *, shuffle: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.head, self.shuffle = nn.Conv2d(8, 2, 1), shuffle

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.first(inputs)
        if self.shuffle:
            maps = maps.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.second(maps))


def test_a_shuffle_is_a_renumbering():
    mixed, plain_ = Shuffled(shuffle=True), Shuffled(shuffle=False)
    plain_.load_state_dict(mixed.state_dict())
    order = torch.arange(8).view(2, 4).T.flatten()  # the channel that comes to each place
    plain_.first.weight.data, plain_.first.bias.data = mixed.first.weight[order], mixed.first.bias[order]
    images = torch.randn(2, 3, 6, 6)
    graph = trace(mixed, images)
    (group,) = graph.groups()
    gone = group.remove_preview([1, 3])["first.weight"][0]
    places = [place for place in range(8) if int(order[place]) in gone]
    other = trace(plain_, images)
    cut = [
        apply(mixed, plan_for(graph, {group.id: [1, 3]})).model,
        apply(plain_, plan_for(other, {other.groups()[0].id: places})).model,
    ]
    assert cut[0].first.out_channels == cut[1].first.out_channels == 4
    torch.testing.assert_close(cut[0](images), cut[1](images))


def test_the_report_lists_groups_reasons_and_unknown_operations():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.spare = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(1, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.linalg.matrix_exp(self.second(self.first(inputs)).unflatten(1, (2, 2)))

    lines = trace(Mixed(), torch.zeros(2, 3)).report().splitlines()
    assert lines[0] == "1 groups"
    assert [line.split() for line in lines if line.startswith("first.weight ")] == [
        ["first.weight", "6", "3"]
    ]
    assert any(line.split()[:1] == ["second.weight:0"] and "matrix_exp" in line for line in lines)
    assert lines[-2:] == ["spare.weight", "spare.bias"]
