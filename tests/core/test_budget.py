"""Costs against counts by hand, and limits as users write them."""

import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from torchard.core import budget
from torchard.core.errors import UsageError


def test_params_count_shared_ones_once():
    layer = nn.Linear(4, 4)
    assert budget.count_params(nn.Sequential(layer, layer)) == 20


def test_macs_of_convolution_and_linear_equal_the_formula():
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    convolution = 8 * 6 * 6 * (4 // 2) * 9
    assert budget.count_macs(net, torch.randn(1, 4, 6, 6)) == convolution + 8 * 36 * 5
    assert budget.count_macs(net, torch.randn(3, 4, 6, 6)) == 3 * (convolution + 8 * 36 * 5)


def test_macs_of_published_models():
    """ResNet-18 is 1.8 G, MobileNetV2 0.30 G in every table."""
    example = torch.randn(1, 3, 224, 224)
    assert budget.count_macs(timm.create_model("resnet18"), example) == pytest.approx(1.82e9, rel=0.01)
    assert budget.count_macs(timm.create_model("mobilenetv2_100"), example) == pytest.approx(
        0.301e9, rel=0.01
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_macs_see_the_products_of_attention(frozen):
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    n, d = 50, 16
    assert budget.count_macs(Attention(), torch.randn(2, 3, n, d)) == 2 * 2 * 3 * n * n * d
    heads = nn.MultiheadAttention(d, 2, batch_first=True).requires_grad_(not frozen)
    x = torch.randn(1, n, d)
    assert budget.count_macs(heads, (x, x, x)) == 4 * n * d * d + 2 * n * n * d
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_of_a_model_that_hands_parameters_to_its_modules():
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.zeros(1, 1, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(self.token.expand(len(x), 2, 4)) + self.layer(x)

    net = Token()
    assert budget.count_macs(net, torch.randn(5, 1, 4)) == 5 * (2 + 1) * 4 * 3
    assert net.token.requires_grad
    assert budget.count_macs(timm.create_model("test_vit3", num_classes=3), torch.zeros(1, 3, 160, 160)) > 0


@pytest.mark.parametrize(("directions", "layers"), [(1, 1), (2, 2)])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_macs_of_recurrent_layers_equal_the_formula(kind, gates, directions, layers):
    steps, samples, inputs, hidden = 7, 2, 5, 6
    net = kind(inputs, hidden, layers, bidirectional=directions == 2)
    widths = [inputs, *[directions * hidden] * (layers - 1)]
    expected = sum(steps * samples * directions * gates * hidden * (width + hidden) for width in widths)
    assert budget.count_macs(net, torch.randn(steps, samples, inputs)) == expected


def test_counting_leaves_the_model_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    example = torch.randn(4, 3, 8, 8)
    budget.measure(net, example, warmup=1, repeats=2)
    budget.activation_bytes(net, example)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_activation_bytes_by_hand():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    example = torch.randn(7, 10)
    # the input for the first layer, and the rectified map, which ReLU and the last layer share
    assert budget.activation_bytes(net, example) == 4 * (7 * 10 + 7 * 20)
    net[0].requires_grad_(False)
    assert budget.activation_bytes(net, example) == 4 * 7 * 20


def test_activation_bytes_count_a_checkpointed_block_less():
    from torch.utils.checkpoint import checkpoint

    block = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4)])

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    example = torch.randn(8, 16)
    assert budget.activation_bytes(Saving(), example) < budget.activation_bytes(block, example) / 2


def test_file_bytes_equal_the_tensors_of_the_file(tmp_path):
    from safetensors.torch import save_file

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    header = int.from_bytes((tmp_path / "net.safetensors").read_bytes()[:8], "little") + 8
    assert budget.file_bytes(net) == (tmp_path / "net.safetensors").stat().st_size - header


def test_latency_counts_calls_and_orders_its_numbers():
    calls = []
    taken = budget.latency(lambda x: calls.append(x), torch.zeros(1), warmup=2, repeats=20)
    assert len(calls) == 22
    assert 0 <= taken.median_ms <= taken.p95_ms
    assert taken.repeats == 20
    assert set(taken.to_json()) == {"median", "p95"}


def test_comparison_takes_turns():
    order = []
    compared = budget.compare_latency(
        lambda x: order.append("a"), lambda x: order.append("b"), torch.zeros(1), warmup=1, repeats=3
    )
    assert order == ["a", "b"] * 4
    assert compared.speedup > 0


def test_speedup_of_far_less_work_is_seen():
    slow, fast = nn.Linear(1024, 1024), nn.Linear(8, 8)
    big, small = torch.randn(256, 1024), torch.randn(2, 8)
    compared = budget.compare_latency(lambda x: slow(big), lambda x: fast(small), big, repeats=7)
    assert compared.speedup > 2


def test_threads_are_restored():
    before = torch.get_num_threads()
    assert budget.latency(nn.Linear(2, 2), torch.zeros(1, 2), repeats=2, threads=2).threads == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("counts", [{"repeats": 0}, {"warmup": -1}], ids=str)
def test_impossible_repeats_are_refused(counts):
    with pytest.raises(ValueError, match="repeats"):
        budget.latency(nn.Identity(), torch.zeros(1), **counts)


@pytest.mark.parametrize(
    ("parse", "text", "value", "relative"),
    [
        (budget.parse_macs, "0.5x", 0.5, True),
        (budget.parse_macs, ".5X", 0.5, True),
        (budget.parse_macs, "120M", 120e6, False),
        (budget.parse_macs, "1.2 G", 1.2e9, False),
        (budget.parse_macs, "0.0001x", 0.0001, True),
        (budget.parse_params, "2M", 2e6, False),
        (budget.parse_params, "800k", 8e5, False),
        (budget.parse_latency, "8ms", 8.0, False),
        (budget.parse_latency, "0.1s", 100.0, False),
        (budget.parse_latency, "0.5x", 0.5, True),
    ],
)
def test_limits_are_read(parse, text, value, relative):
    limit = parse(text)
    assert limit.relative is relative
    assert limit.value == pytest.approx(value)
    assert parse(str(limit)) == limit
    assert limit.amount(1000.0) == pytest.approx(value * 1000 if relative else value)


@given(
    st.sampled_from(
        [(budget.parse_macs, "kMG"), (budget.parse_params, "kMGB"), (budget.parse_latency, ["ms", "s"])]
    ),
    st.decimals(min_value="0.001", max_value=9999, places=6, allow_nan=False),
    st.data(),
)
def test_a_limit_s_text_says_it_exactly(kind, number, data):
    parse, units = kind
    limit = parse(f"{number:f}{data.draw(st.sampled_from(list(units)))}")
    assert parse(str(limit)) == limit


BAD_LIMITS = ["", "10", "x", "0x", "0M", "-1M", "2x", "nanx", "infM", "1e5M", "120 Q", "M120", "0.5", "1..2M"]


@pytest.mark.parametrize("text", BAD_LIMITS)
@pytest.mark.parametrize("parse", [budget.parse_macs, budget.parse_params, budget.parse_latency])
def test_bad_limits_name_the_option_and_an_example(parse, text):
    with pytest.raises(UsageError, match=r"--\w+ .* Write for example"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661), ("1s", 1)],
)
def test_times_are_read(text, seconds):
    assert budget.parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "10h5", "5m1h", "0s", "-3m", "m", "1m1m", "1 h", "inf s", "1e3s", "10x"]
)
def test_bad_times_are_refused(text):
    with pytest.raises(UsageError, match="--time"):
        budget.parse_seconds(text)


@given(st.floats(1, 9.9e13))
def test_human_counts_keep_three_digits_and_sort_like_numbers(count):
    number, unit = budget.human(count).split(" ")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
    assert math.isclose(float(number) * scale, count, rel_tol=0.006)
    assert len(number) <= 5
