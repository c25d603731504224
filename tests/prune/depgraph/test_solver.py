"""Widths the code of a model ties together."""

import pytest
import torch
from torch import Tensor, nn

from torchard.prune.depgraph import apply, plan, trace, verify
from torchard.prune.depgraph.algebra import Axis
from torchard.prune.depgraph.solver import settle

X = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Two linear layers and a function between them."""

    def __init__(self, function, outputs: int = 24, inner: int | None = None, **attributes) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, outputs), nn.Linear(inner or outputs, 12)
        self.third = nn.Linear(12, 3)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(self.function(self, self.first(x)))))


def halves(m: nn.Module, h: Tensor) -> Tensor:
    left, right = h.chunk(2, dim=-1)
    return left * right.sigmoid()


def thirds(m: nn.Module, h: Tensor) -> Tensor:
    a, b, c = h.split(m.width, dim=-1)
    return torch.cat([a * b, c], dim=-1)


def viewed(m: nn.Module, h: Tensor) -> Tensor:
    return (h.view(h.shape[0], m.heads, m.size) * 2).reshape(h.shape[0], m.heads * m.size)


def narrowed(m: nn.Module, h: Tensor) -> Tensor:
    return h.narrow(-1, 0, h.shape[-1] // 2) + h[:, h.shape[-1] // 2 :]


def from_the_end(m: nn.Module, h: Tensor) -> Tensor:
    return h[:, : -m.width] * h[:, -m.width :]


def zeros(m: nn.Module, h: Tensor) -> Tensor:
    return h + torch.zeros(h.shape[0], m.width)


def expanded(m: nn.Module, h: Tensor) -> Tensor:
    return h * h.mean(-1, keepdim=True).expand(-1, m.width)


def asserted(m: nn.Module, h: Tensor) -> Tensor:
    assert h.shape[-1] == m.width
    return h.relu()


def repeated(m: nn.Module, h: Tensor) -> Tensor:
    return h.mean(-1, keepdim=True).repeat(1, h.shape[1]) * h


CASES = {
    "halves": (halves, {"inner": 12}),
    "thirds": (thirds, {"inner": 16, "width_": 8}),
    "viewed": (viewed, {"heads": 4, "size": 6}),
    "narrowed": (narrowed, {"inner": 12}),
    "from_the_end": (from_the_end, {"inner": 12, "width_": 12}),
    "zeros": (zeros, {"width_": 24}),
    "expanded": (expanded, {"width_": 24}),
    "asserted": (asserted, {"width_": 24}),
    "repeated": (repeated, {}),
}


def written(name: str) -> Written:
    function, options = CASES[name]
    options = dict(options)
    inner = options.pop("inner", None)
    attributes = {key.rstrip("_"): value for key, value in options.items()}
    return Written(function, 24, inner, **attributes)


@pytest.mark.parametrize("name", sorted(CASES))
def test_code_that_ties_sizes_is_followed(name):
    model = written(name)
    chosen = plan(trace(model, X), ratio=0.5, criterion="random")
    assert any(group.startswith("first.weight") for group in chosen.removed), chosen.frozen
    checked = verify(model, chosen, X)
    assert checked.passed, checked
    apply(model, chosen)
    assert model.first.out_features == 12
    assert model(X).shape == (2, 3)
    plain = {n: type(v) for n, v in vars(model).items() if n in ("width", "heads", "size")}
    assert set(plain.values()) <= {int}


LITERALS = {
    "view": lambda m, h: h.view(-1, 4, 6).flatten(1),
    "slice": lambda m, h: h[:, :16].repeat(1, 2)[:, :24] * h,
    "zeros": lambda m, h: h + torch.zeros(2, 24),
    "split": lambda m, h: torch.cat(h.split(6, dim=-1), dim=-1),
    "comparison": lambda m, h: h if h.shape[-1] == 24 else -h,
    "branch": lambda m, h: h if h.shape[-1] > 20 else -h,
    "float": lambda m, h: h * float(h.shape[-1]),
    "table": lambda m, h: h[:, torch.arange(h.shape[-1])],
}


@pytest.mark.parametrize("name", sorted(LITERALS))
def test_sizes_written_into_the_code_freeze_what_they_mention(name):
    model = Written(LITERALS[name])
    chosen = plan(trace(model, X), ratio=0.5)
    assert [group for group in chosen.removed if group.startswith("first")] == []
    assert "second.weight" in chosen.removed
    assert any(place.startswith("first.weight") and why for place, why in chosen.frozen.items())
    assert verify(model, chosen, X).passed


def test_linked_axes_keep_one_share_in_whole_steps():
    axes = [Axis(12), Axis(18)]
    least, steps = dict.fromkeys(axes, 1), dict.fromkeys(axes, 1)
    for wanted in range(1, 19):
        settled = settle([axes], {axes[0]: min(wanted, 12), axes[1]: wanted}, least, steps)
        assert settled[axes[0]] * 18 == settled[axes[1]] * 12
        assert settled[axes[0]] % 2 == 0
        assert 2 <= settled[axes[0]] <= 12
    aligned = settle([axes], {axes[0]: 4, axes[1]: 6}, least, dict.fromkeys(axes, 4))
    assert aligned == {axes[0]: 8, axes[1]: 12}


def test_linked_axes_without_a_common_divisor_are_frozen():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 35), nn.Linear(12, 35)
            self.third = nn.Linear(35, 3)

        def forward(self, x: Tensor) -> Tensor:
            left = self.first(x).view(2, 5, 7).sum(1)
            right = self.second(x)
            return self.third(right * left.sum(1, keepdim=True).expand(2, right.shape[1]))

    model = Odd()
    chosen = plan(trace(model, X), ratio=0.5)
    assert set(chosen.removed) <= {"second.weight"}
    assert verify(model, chosen, X).passed
