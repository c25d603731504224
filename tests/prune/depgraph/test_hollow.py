"""A pass without arithmetic: its tensors are like the real ones, and it finds what a real pass finds."""

import contextlib
import random

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.prune.depgraph.networks import Residual
from torchard.prune.depgraph import trace
from torchard.prune.depgraph.hollow import Hollow, LooksAtValues
from torchard.prune.depgraph.ledger import tensors_in
from torchard.prune.depgraph.rules.registry import bind_arguments, name_of

A = torch.ops.aten
MAPS = torch.randn(2, 6, 9, 7)
LAST = MAPS.to(memory_format=torch.channels_last)
ROWS = torch.randn(2, 5, 8)
PLAIN = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
CALLS = {
    "convolution": (A.convolution.default, MAPS, torch.randn(4, 6, 3, 3), torch.randn(4), *PLAIN),
    "of channels last": (A.convolution.default, LAST, torch.randn(4, 6, 3, 3), None, *PLAIN),
    "grouped, strided, padded, dilated": (
        *(A.convolution.default, MAPS, torch.randn(4, 3, 3, 2), None),
        *((2, 1), (1, 3), (2, 1), False, (0, 0), 2),
    ),
    "transposed": (
        *(A.convolution.default, MAPS, torch.randn(6, 4, 3, 2), None),
        *((2, 3), (1, 0), (1, 2), True, (1, 2), 2),
    ),
    "of a part of channels last": (
        *(
            A.convolution.default,
            torch.randn(1, 9, 7, 10).permute(0, 3, 1, 2)[:, :6],
            torch.randn(4, 6, 3, 3),
        ),
        *(None, *PLAIN),
    ),
    "of tokens": (  # like channels last, but for the stride of the batch
        *(
            A.convolution.default,
            torch.randn(1, 63, 6).transpose(1, 2).view(1, 6, 9, 7),
            torch.randn(6, 1, 3, 3),
        ),
        *(None, (1, 1), (1, 1), (1, 1), False, (0, 0), 6),
    ),
    "in one dimension": (
        *(A.convolution.default, torch.randn(2, 3, 9), torch.randn(4, 3, 5), None),
        *((2,), (1,), (1,), False, (0,), 1),
    ),
    "in three dimensions": (
        *(A.convolution.default, torch.randn(1, 2, 4, 5, 6), torch.randn(3, 2, 2, 2, 2), None),
        *((1, 1, 1), (0, 0, 0), (1, 1, 1), False, (0, 0, 0), 1),
    ),
    "mm": (A.mm.default, ROWS[0], torch.randn(8, 3)),
    "mm of a transpose": (A.mm.default, ROWS[0].t(), torch.randn(5, 3)),
    "bmm": (A.bmm.default, ROWS, ROWS.transpose(1, 2)),
    "addmm": (A.addmm.default, torch.randn(3), ROWS[0], torch.randn(3, 8).t()),
    "baddbmm": (A.baddbmm.default, torch.randn(5, 5), ROWS, ROWS.transpose(1, 2)),
    "batch norm": (A.native_batch_norm.default, LAST, *[torch.ones(6)] * 4, False, 0.1, 1e-5),
    "batch norm of rows": (
        A.native_batch_norm.default,
        ROWS[0],
        *[None] * 2,
        *[torch.ones(8)] * 2,
        False,
        0.1,
        1e-5,
    ),
    "layer norm": (A.native_layer_norm.default, ROWS, [5, 8], None, None, 1e-5),
    "attention": (
        A._scaled_dot_product_flash_attention_for_cpu.default,
        *(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)),
    ),
    "activation": (A.gelu.default, LAST),
    "activation of a part": (A.relu.default, torch.randn(1, 9, 4, 5)[:, :6]),
    "activation of a part of channels last": (
        A.relu.default,
        torch.randn(1, 9, 7, 10).permute(0, 3, 1, 2)[:, :6],
    ),
    "activation of one place": (A.relu.default, torch.randn(1, 1, 1, 8).permute(0, 3, 1, 2)),
    "batch norm of a part": (
        *(A.native_batch_norm.default, torch.randn(2, 9, 4, 5)[:, :6]),
        *(*[torch.ones(6)] * 4, False, 0.1, 1e-5),
    ),
    "softmax": (A._softmax.default, ROWS.transpose(1, 2), -1, False),
    "clone": (A.clone.default, LAST),
    "attention of a transpose": (
        *(A._scaled_dot_product_flash_attention_for_cpu.default, torch.randn(2, 5, 3, 8).transpose(1, 2)),
        *(torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)),
    ),
    "sum": (A.add.Tensor, MAPS, LAST),
    "broadcast": (A.mul.Tensor, torch.randn(6, 1, 1), LAST),
    "of two layouts": (A.add.Tensor, LAST, MAPS),
    "of a broadcast and a transpose": (
        A.mul.Tensor,
        ROWS[..., :1].contiguous(),
        torch.randn(5, 2, 8).transpose(0, 1),
    ),
    "with a number": (A.div.Tensor, LAST, 3),
    "of one image with a number": (A.div.Tensor, torch.randn(1, 63, 6).transpose(1, 2).view(1, 6, 9, 7), 3.0),
    "laid end to end": (A.cat.default, [MAPS, torch.randn(2, 1, 9, 7)], 1),
}


def hollowed(func, *args, computed=True):
    """The call with every operand hollow, through :class:`Hollow`."""
    arguments = bind_arguments(func, args, {})
    operands = tensors_in(arguments.values())
    hollow = Hollow(operands)
    hollow._mark(operands, hollow=True)
    run = func if computed else _Never(func)
    return hollow.call(run, name_of(func), args, {}, arguments, operands)


class _Never:
    def __init__(self, func):
        self.tags, self._schema = func.tags, func._schema

    def __call__(self, *args, **kwargs):
        raise AssertionError("the operation was carried out")


@pytest.mark.parametrize("what", CALLS)
def test_what_stands_in_has_size_type_and_layout_of_the_result(what):
    func, *args = CALLS[what]
    memory = [(t.shape, t.dtype, t.stride()) for t in tensors_in((hollowed(func, *args, computed=False),))]
    assert memory == [(t.shape, t.dtype, t.stride()) for t in tensors_in((func(*args),))]


def strided(chance: random.Random, shape: list[int]) -> Tensor:
    """A tensor of ``shape`` in some order of memory, perhaps part of a larger one."""
    order = chance.sample(range(len(shape)), len(shape))
    held = [shape[place] + chance.choice((0, 0, 2)) for place in order]
    whole = torch.zeros(held).permute([order.index(place) for place in range(len(shape))])
    return whole[tuple(slice(size) for size in shape)]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_results_of_arithmetic_lie_in_memory_as_torch_lays_them(seed):
    chance = random.Random(seed)
    shape = [chance.randint(1, 4) for _ in range(chance.randint(1, 4))]
    one = strided(chance, [size if chance.random() < 0.8 else 1 for size in shape])
    other = strided(
        chance, [size if chance.random() < 0.7 else 1 for size in shape[chance.choice((0, 0, 1)) :]]
    )
    calls = [
        (A.add.Tensor, one, other),
        (A.mul.Tensor, one, 2.0),
        (A.relu.default, one),
        (A.clone.default, one),
    ]
    if one.dim() == 4:
        calls.append((A.convolution.default, one, torch.zeros(2, one.shape[1], 1, 1), None, *PLAIN))
    for func, *args in calls:
        assert steps(hollowed(func, *args, computed=False)) == steps(func(*args)), (func, one.stride())


def steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Sizes and strides; those of single elements mean nothing."""
    return [(size, stride) for size, stride in zip(tensor.shape, tensor.stride()) if size > 1]


@pytest.mark.parametrize("func", [A.relu_.default, A.silu_.default, A.mul_.Tensor, A.add_.Tensor])
def test_in_place_operations_return_their_operand(func):
    maps = MAPS.clone()
    args = (maps, torch.randn(6, 1, 1)) if func in (A.mul_.Tensor, A.add_.Tensor) else (maps,)
    assert hollowed(func, *args, computed=False) is maps


@pytest.mark.parametrize(
    "call",
    [
        (A.convolution.default, MAPS, torch.randn(4, 5, 3, 3), None, *PLAIN),
        (A.convolution.default, MAPS, torch.randn(4, 6, 30, 3), None, *PLAIN),
        (A.convolution.default, MAPS, torch.randn(4, 6, 3, 3), torch.randn(3), *PLAIN),
        (A.mm.default, ROWS[0], torch.randn(7, 3)),
        (A.mm.default, ROWS[0], torch.randn(8, 3).double()),
        (A.addmm.default, torch.randn(2), ROWS[0], torch.randn(8, 3)),
        (A.native_layer_norm.default, ROWS, [4], None, None, 1e-5),
        (A.add_.Tensor, torch.randn(3), torch.randn(2, 3)),
        (A.add.Tensor, torch.randn(3), torch.randn(2)),
    ],
)
def test_operands_that_do_not_fit_are_refused_by_the_operation_itself(call):
    with pytest.raises((RuntimeError, IndexError)) as real:
        call[0](*[argument.clone() if isinstance(argument, Tensor) else argument for argument in call[1:]])
    with pytest.raises(type(real.value)):
        hollowed(*call)


def structure(graph):
    groups = [
        (
            group.id,
            group.size,
            sorted(group.tags),
            [(m.name, m.dim, m.role, m.kind, m.copies) for m in group.members],
        )
        for group in graph.groups(heads="both")
    ]
    places = [[list(map(list, m.places)) for m in group.members] for group in graph.groups()]
    return groups, places, graph.operations, graph.macs(), graph.params(), graph.frozen(), graph.unknown


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (Residual, 12),
        *(
            (lambda name=name: timm.create_model(name), 64)
            for name in ("test_resnet", "test_efficientnet", "test_nfnet")
        ),
        *((lambda name=name: timm.create_model(name), 160) for name in ("test_vit", "test_vit2")),
        *(
            (lambda name=name: timm.create_model(name), 64)
            for name in ("test_convnext", "lcnet_050", "test_mambaout")
        ),
    ],
)
def test_a_hollow_pass_finds_what_a_real_one_finds(build, size):
    model, example = build(), torch.randn(1, 3, size, size)
    assert structure(trace(model, example, mode="hollow")) == structure(trace(model, example, mode="real"))


class Looking(nn.Module):
    """Chooses its way by what the first layer answered."""

    def __init__(self, look) -> None:
        super().__init__()
        self.first, self.second, self.look = nn.Linear(4, 6), nn.Linear(6, 6), look

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.first(inputs)
        with contextlib.suppress(LooksAtValues):
            features = self.look(self, features)
        return features


LOOKS = {
    "a branch": lambda model, x: model.second(x) if (x * 0).sum() == 0 else x,
    "a number": lambda model, x: model.second(x) * (x * 0).max().item(),
    "a list": lambda model, x: model.second(x) if (x * 0).tolist()[0][0] == 0 else x,
    "an array": lambda model, x: model.second(x) if not (x * 0).numpy().any() else x,
    "a mask": lambda model, x: model.second(x[(x * 0 == 0).all(1)]),
    "places": lambda model, x: model.second(x[:, (x * 0).long()[0]]),
    "places in a table": lambda model, x: model.second(F.embedding((x * 0).long(), torch.randn(9, 6))),
    "after being written into a part of a table": lambda model, x: model.second(x) + _written(x).sum().item(),
}


def _written(features: Tensor) -> Tensor:
    table = torch.zeros(3, 6)
    table[1:2, :3].copy_(features[:1, :3] * 0)
    return table


@pytest.mark.parametrize("look", LOOKS)
def test_code_that_looks_at_values_gets_a_real_pass(look):
    model, example = Looking(LOOKS[look]), torch.randn(2, 4)
    with pytest.raises(ValueError, match="try `mode='real'`"):
        trace(model, example, mode="hollow")
    assert structure(trace(model, example)) == structure(trace(model, example, mode="real"))


def test_what_code_keeps_for_later_is_computed():
    """A table that the model makes of constants alone, by a product, and keeps outside of itself."""
    kept: list[Tensor] = []

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            kept[:] = kept or [torch.arange(2.0)[:, None] @ torch.arange(6.0)[None]]
            return self.layer(inputs) + kept[0]

    trace(Keeping(), torch.randn(2, 4), mode="hollow")
    assert torch.equal(kept[0], torch.outer(torch.arange(2.0), torch.arange(6.0)))


def test_an_example_that_does_not_fit_is_refused_as_by_a_real_pass():
    with pytest.raises(ValueError, match="does not run through Residual: RuntimeError"):
        trace(Residual(), torch.randn(1, 4, 12, 12))


def test_foreign_kernels_are_not_given_what_was_never_written():
    foreign = _Never(A.relu.default)
    hollow = Hollow([MAPS])
    hollow._mark([MAPS], hollow=True)
    with pytest.raises(LooksAtValues, match=r"my\.kernel looks at values"):
        hollow.call(foreign, "my.kernel", (MAPS,), {}, {"self": MAPS}, [MAPS])
    assert hollow.looked_at == "my.kernel"
