"""Hand-made networks, each with one thing that pruning libraries are known to get wrong."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

Build = Callable[[], tuple[nn.Module, Any]]


class Apply(nn.Module):
    """A function and the modules it uses."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            elif isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def images(channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size)


def tokens(width: int = 24, count: int = 6) -> Tensor:
    return torch.randn(2, count, width)


def flatten_nchw() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)), images()


def flatten_nhwc() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.relu(m.conv(x)).permute(0, 2, 3, 1).flatten(1))

    return Apply(run, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8 * 36, 5)), images()


def linear_to_maps() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.conv(torch.relu(m.fc(x)).view(x.shape[0], -1, 4, 4)).mean((2, 3))

    return Apply(run, fc=nn.Linear(10, 8 * 16), conv=nn.Conv2d(8, 5, 3)), torch.randn(2, 10)


def u_net() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        high = torch.relu(m.down(x))
        low = torch.relu(m.deep(F.max_pool2d(high, 2)))
        return m.out(torch.cat([m.up(low), high], dim=1))

    parts = {
        "down": nn.Conv2d(3, 8, 3, padding=1),
        "deep": nn.Conv2d(8, 16, 3, padding=1),
        "up": nn.ConvTranspose2d(16, 8, 2, 2),
        "out": nn.Conv2d(16, 2, 1),
    }
    return Apply(run, **parts), images()


def dense_concat() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        maps = m.stem(x)
        for layer in m.layers:
            maps = torch.cat([maps, layer(maps)], dim=1)
        return m.head(maps.mean((2, 3)))

    layers = nn.ModuleList(
        nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1))
        for i in range(3)
    )
    return Apply(run, stem=nn.Conv2d(3, 8, 3), layers=layers, head=nn.Linear(20, 5)), images()


def shuffle_depthwise() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        maps = m.stem(x)
        b, c, h, w = maps.shape
        maps = maps.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.head(m.depthwise(maps).mean((2, 3)))

    parts = {
        "stem": nn.Conv2d(3, 16, 3),
        "depthwise": nn.Conv2d(16, 16, 3, groups=16),
        "head": nn.Linear(16, 5),
    }
    return Apply(run, **parts), images()


def grouped() -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, groups=4), nn.ReLU(), nn.Conv2d(24, 5, 1)]
    return nn.Sequential(*layers), images()


def grouped_transposed() -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 24, 3, groups=4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(24, 5, 1)), images()


def depthwise_multiplier() -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 24, 3, groups=8), nn.ReLU(), nn.Conv2d(24, 5, 1)]
    return nn.Sequential(*layers), images()


def one_channel() -> tuple[nn.Module, Any]:
    """A convolution with one input channel is not a depthwise one."""
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3), nn.Conv2d(1, 5, 1)), images(1)


def instance_norm() -> tuple[nn.Module, Any]:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 5, 1)), images()


def group_norm() -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(3, 24, 3), nn.GroupNorm(3, 24), nn.SiLU(), nn.Conv2d(24, 5, 1)]
    return nn.Sequential(*layers), images()


def layer_norm_over_maps() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 6, 6]), nn.ReLU(), nn.Conv2d(8, 5, 1)), images()


def bare_weights() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.relu(x @ m.first * m.scale + m.shift) @ m.second

    parts = {
        "first": parameter(10, 16),
        "scale": parameter(16),
        "shift": parameter(16),
        "second": parameter(16, 5),
    }
    return Apply(run, **parts), torch.randn(2, 10)


def einsum() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("bnd,dhe->bnhe", x, m.first))
        return torch.einsum("bnhe,heo->bno", hidden, m.second)

    return Apply(run, first=parameter(24, 4, 8), second=parameter(4, 8, 5)), tokens()


def weight_sharing() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden = m.enter(x)
        for _ in range(3):
            hidden = hidden + torch.relu(m.shared(hidden))
        return m.leave(hidden)

    parts = {"enter": nn.Linear(10, 16), "shared": nn.Linear(16, 16), "leave": nn.Linear(16, 5)}
    return Apply(run, **parts), torch.randn(2, 10)


def tied_embedding() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.relu(m.inner(m.table(x))) @ m.table.weight.t()

    return Apply(run, table=nn.Embedding(20, 16), inner=nn.Linear(16, 16)), torch.randint(0, 20, (2, 7))


def outer_product() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden = m.enter(x)
        return m.leave((hidden.unsqueeze(2) * hidden.unsqueeze(1)).flatten(1))

    return Apply(run, enter=nn.Linear(10, 12), leave=nn.Linear(144, 5)), torch.randn(2, 10)


def channel_buffer() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.leave(m.enter(x) * m.gain)

    return Apply(run, enter=nn.Linear(10, 16), leave=nn.Linear(16, 5), gain=torch.rand(16)), torch.randn(
        2, 10
    )


def token_concat() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = torch.cat([m.cls.expand(b, -1, -1), m.embed(x)], dim=1) + m.position
        return m.head(m.block(x)[:, 0])

    block = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    parts = {"embed": nn.Linear(24, 24), "block": block, "head": nn.Linear(24, 5)}
    return Apply(run, cls=parameter(1, 1, 24), position=parameter(1, 7, 24), **parts), tokens()


def register_tokens() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([x, m.registers.expand(x.shape[0], -1, -1)], dim=1)
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in m.qkv(x).chunk(3, dim=-1))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, :6]

    return Apply(run, registers=parameter(1, 4, 24), qkv=nn.Linear(24, 72), out=nn.Linear(24, 5)), tokens()


def fused_qkv() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = m.qkv(m.enter(x)).reshape(b, n, 3, m.heads, c // m.heads).permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-2, -1) * (c // m.heads) ** -0.5).softmax(-1) @ v
        return m.out(x.transpose(1, 2).reshape(b, n, c))

    return Apply(run, enter=nn.Linear(24, 24), qkv=nn.Linear(24, 72), out=nn.Linear(24, 5), heads=4), tokens()


def grouped_queries() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = m.q(x).view(b, n, 4, -1).transpose(1, 2)
        k = m.k(x).view(b, n, 2, -1).transpose(1, 2)
        v = m.v(x).view(b, n, 2, -1).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return m.out(x.transpose(1, 2).reshape(b, n, -1))

    parts = {"q": nn.Linear(24, 24), "k": nn.Linear(24, 12), "v": nn.Linear(24, 12), "out": nn.Linear(24, 5)}
    return Apply(run, **parts), tokens()


def rotary() -> tuple[nn.Module, Any]:
    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    def run(m: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, 4, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
        q, k = (t * m.cos + turn(t) * m.sin for t in (q, k))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))

    angles = torch.rand(6, 4).repeat(1, 2)
    parts = {name: nn.Linear(24, 32) for name in "qkv"}
    return Apply(run, cos=angles.cos(), sin=angles.sin(), out=nn.Linear(32, 5), **parts), tokens()


def attention_weights() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Any:
        x = m.enter(x)
        out, weights = m.attention(x, x, x, need_weights=True)
        return m.leave(out), weights

    parts = {"enter": nn.Linear(24, 24), "leave": nn.Linear(24, 5)}
    return Apply(run, attention=nn.MultiheadAttention(24, 4, batch_first=True), **parts), tokens()


def literal_reshape() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x).view(-1, 6, 4, 8).mean(1)
        return m.leave(x.reshape(-1, 32))

    return Apply(
        run, enter=nn.Linear(24, 32), leave=nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 5))
    ), tokens()


def literal_slice() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden = m.enter(x)
        return m.leave(hidden[..., :16] * hidden[..., 16:]) + m.other(hidden)

    return Apply(run, enter=nn.Linear(24, 32), leave=nn.Linear(16, 5), other=nn.Linear(32, 5)), tokens()


def gated() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        value, gate = m.enter(x).chunk(2, dim=-1)
        return m.leave(value * torch.sigmoid(gate))

    return Apply(run, enter=nn.Linear(24, 32), leave=nn.Linear(16, 5)), tokens()


def glu() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Linear(24, 32), nn.GLU(), nn.Linear(16, 5)), tokens()


def pixel_shuffle() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.PixelShuffle(2), nn.Conv2d(8, 5, 3)), images()


def channel_padding() -> tuple[nn.Module, Any]:
    """The parameter-free shortcut of CIFAR ResNets."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.stem(x))
        y = m.second(torch.relu(m.first(x)))
        return m.head(torch.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).mean((2, 3)))

    parts = {
        "stem": nn.Conv2d(3, 8, 3, padding=1),
        "first": nn.Conv2d(8, 16, 3, 2, 1),
        "second": nn.Conv2d(16, 16, 3, padding=1),
        "head": nn.Linear(16, 5),
    }
    return Apply(run, **parts), images()


def squeeze_excite() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.stem(x))
        gate = torch.sigmoid(m.expand(torch.relu(m.reduce(x.mean((2, 3))))))
        return m.head((x * gate[:, :, None, None]).mean((2, 3)))

    parts = {"stem": nn.Conv2d(3, 16, 3), "reduce": nn.Linear(16, 4), "expand": nn.Linear(4, 16)}
    return Apply(run, head=nn.Linear(16, 5), **parts), images()


def bilinear() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(torch.relu(m.mix(m.left(x), m.right(x))))

    parts = {"left": nn.Linear(10, 6), "right": nn.Linear(10, 8), "mix": nn.Bilinear(6, 8, 12)}
    return Apply(run, out=nn.Linear(12, 5), **parts), torch.randn(2, 10)


def weight_norm() -> tuple[nn.Module, Any]:
    layers = [parametrizations.weight_norm(nn.Linear(10, 16)), nn.ReLU(), nn.Linear(16, 5)]
    return nn.Sequential(*layers), torch.randn(2, 10)


def weight_standardisation() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        weight = m.second
        mean, deviation = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        return m.out(torch.relu(F.conv2d(m.first(x), (weight - mean) / (deviation + 1e-5))))

    return Apply(
        run, first=nn.Conv2d(3, 8, 3), second=parameter(12, 8, 3, 3), out=nn.Conv2d(12, 5, 1)
    ), images()


def im2col() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        columns = F.unfold(torch.relu(m.stem(x)), 3)
        return m.head(columns.transpose(1, 2)).mean(1)

    return Apply(run, stem=nn.Conv2d(3, 8, 3), head=nn.Linear(72, 5)), images()


def prelu() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 5, 1)), images()


def manual_mean() -> tuple[nn.Module, Any]:
    """A mean written as a sum over a size."""

    def run(m: Any, x: Tensor) -> Tensor:
        hidden = m.enter(x)
        return m.leave(hidden - hidden.sum(-1, keepdim=True) / hidden.shape[-1])

    return Apply(run, enter=nn.Linear(24, 16), leave=nn.Linear(16, 5)), tokens()


def initial_state() -> tuple[nn.Module, Any]:
    """A recurrence by hand, started from zeros of a size read off a weight."""

    def run(m: Any, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], m.inner.weight.shape[0])
        for step in range(x.shape[1]):
            state = torch.tanh(m.enter(x[:, step]) + m.inner(state))
        return m.leave(state)

    parts = {"enter": nn.Linear(24, 16), "inner": nn.Linear(16, 16), "leave": nn.Linear(16, 5)}
    return Apply(run, **parts), tokens()


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Build:
    def build() -> tuple[nn.Module, Any]:
        layer = kind(10, 12, batch_first=True, **options)
        width = (options.get("proj_size") or 12) * (2 if options.get("bidirectional") else 1)
        return Apply(
            lambda m, x: m.head(m.layer(x)[0].mean(1)), layer=layer, head=nn.Linear(width, 5)
        ), tokens(10)

    return build


def lstm_cell() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = m.cell(x[:, step], state)
        return m.head(state[0])

    return Apply(run, cell=nn.LSTMCell(10, 12), head=nn.Linear(12, 5)), tokens(10)


def point_cloud() -> tuple[nn.Module, Any]:
    """DGCNN: neighbours by distance in feature space, edges as differences, maximum over neighbours."""

    def edges(x: Tensor, k: int = 4) -> Tensor:
        b, c, n = x.shape
        index = torch.cdist(x.transpose(1, 2), x.transpose(1, 2)).topk(k, largest=False)[1]
        flat = (index + torch.arange(b).view(-1, 1, 1) * n).view(-1)
        neighbours = x.transpose(1, 2).reshape(b * n, -1)[flat].view(b, n, k, c)
        centre = x.transpose(1, 2).view(b, n, 1, c).repeat(1, 1, k, 1)
        return torch.cat((neighbours - centre, centre), dim=3).permute(0, 3, 1, 2)

    def run(m: Any, x: Tensor) -> Tensor:
        first = torch.relu(m.first(edges(x))).amax(-1)
        second = torch.relu(m.second(torch.cat([first.unsqueeze(-1)] * 2, dim=1))).amax(-1)
        return m.head(torch.cat([first, second], dim=1).amax(-1))

    parts = {"first": nn.Conv2d(6, 16, 1), "second": nn.Conv2d(32, 16, 1), "head": nn.Linear(32, 5)}
    return Apply(run, **parts), torch.randn(2, 3, 20)


def graph_attention() -> tuple[nn.Module, Any]:
    """GAT over an edge list, by scatter_add."""

    def run(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        h = m.enter(x).view(x.shape[0], 2, -1)
        score = (h * m.left).sum(-1)[source] + (h * m.right).sum(-1)[target]
        score = F.leaky_relu(score, 0.2).exp()
        total = torch.zeros(x.shape[0], 2).scatter_add_(0, target[:, None].expand(-1, 2), score)
        weight = score / total[target]
        out = torch.zeros_like(h)
        out.scatter_add_(0, target[:, None, None].expand(-1, 2, h.shape[2]), h[source] * weight[..., None])
        return m.head(F.elu(out.flatten(1)))

    parts = {
        "left": parameter(2, 8),
        "right": parameter(2, 8),
        "enter": nn.Linear(10, 16),
        "head": nn.Linear(16, 5),
    }
    ring = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
    return Apply(run, **parts), (torch.randn(5, 10), ring)


def transformer() -> tuple[nn.Module, Any]:
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Linear(24, 24), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(24, 5)
    ), tokens()


def encoder_decoder() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(m.net(m.enter(x), m.enter(x)))

    net = nn.Transformer(24, 4, 1, 1, 48, batch_first=True)
    return Apply(run, enter=nn.Linear(24, 24), net=net, out=nn.Linear(24, 5)), tokens()


PATTERNS: dict[str, Build] = {
    build.__name__: build
    for build in (
        flatten_nchw, flatten_nhwc, linear_to_maps, u_net, dense_concat, shuffle_depthwise, grouped,
        grouped_transposed, depthwise_multiplier, one_channel, instance_norm, group_norm,
        layer_norm_over_maps, bare_weights, einsum, weight_sharing, tied_embedding, outer_product,
        channel_buffer, token_concat,
        register_tokens, fused_qkv, grouped_queries, rotary, attention_weights, literal_reshape,
        literal_slice, gated, glu, pixel_shuffle, channel_padding, squeeze_excite, bilinear, weight_norm,
        weight_standardisation, im2col, prelu, manual_mean, initial_state, lstm_cell, point_cloud,
        graph_attention, transformer, encoder_decoder,
    )
}  # fmt: skip
PATTERNS |= {
    "lstm": recurrent(nn.LSTM),
    "lstm_deep": recurrent(nn.LSTM, num_layers=3, bidirectional=True),
    "lstm_projected": recurrent(nn.LSTM, proj_size=6),
    "gru": recurrent(nn.GRU, num_layers=2),
    "gru_bidirectional": recurrent(nn.GRU, bidirectional=True),
    "rnn": recurrent(nn.RNN, num_layers=2),
}
