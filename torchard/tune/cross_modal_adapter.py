"""Tune an encoder of images and text by bottlenecks that share weights (Cross-Modal Adapter)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.core.method import Method
from torchard.nn.dual_encoder import BlockSites, Tower
from torchard.tune.adapters.errors import AdapterMismatchError
from torchard.tune.adapters.install import install, refuse_occupied
from torchard.tune.adapters.site_adapter import SiteAdapter
from torchard.tune.adapters.sites import Site
from torchard.tune.adapters.state import AdapterSpec, register
from torchard.tune.interface import (
    activate,
    detach,
    disabled,
    load,
    merge,
    parameter_groups,
    save,
    summary,
    trainable_parameters,
    unmerge,
)
from torchard.tune.retrieval import (
    VideoIndex,
    encode_frames,
    encode_videos,
    frame_mask,
    gathered,
    retrieval_loss,
    retrieval_metrics,
    search,
    text_video_similarity,
)

METHOD = Method(
    shapes=("transform",),
    source="Jiang et al., 2022, arXiv 2211.09623",
    claim="Text-video retrieval on par with full fine-tuning, with 0.4 % of its trained parameters.",
)

__all__ = [
    "CrossModalAdapters",
    "CrossModalConfig",
    "VideoIndex",
    "activate",
    "adapter",
    "attach",
    "detach",
    "disabled",
    "encode_frames",
    "encode_videos",
    "frame_mask",
    "gathered",
    "load",
    "merge",
    "parameter_groups",
    "retrieval_loss",
    "retrieval_metrics",
    "save",
    "search",
    "summary",
    "text_video_similarity",
    "trainable_parameters",
    "unmerge",
]

Activation = Literal["quick_gelu", "gelu", "relu"]
Init = Literal["normal", "zero_up"]
Pairs = Sequence[Sequence[int]]


def attach(
    encoder: Any,
    *,
    bottleneck: int = 8,
    shared_dim: int = 16,
    activation: Activation = "quick_gelu",
    init: Init = "normal",
    init_std: float = 0.01,
    dropout: float = 0.0,
    layers: Pairs | None = None,
    name: str = "default",
) -> Any:
    """Put a bottleneck after every attention and MLP of both towers, in place, and freeze all else.

    Jiang et al. 2022: the last ``shared_dim`` channels of what each bottleneck adds come from weights that
    the two towers have in common, block for block; ``shared_dim=0`` shares nothing (their uni-modal
    baseline). Sharing is by weights only: no token sees the other tower, and features can be computed
    beforehand. Weights start at N(0, ``init_std``²), near the frozen model; ``init="zero_up"`` starts at it
    exactly. The encoder's temperature stays frozen too. Not mergeable: there is a non-linearity inside.

    ``encoder`` is a :class:`~torchard.nn.dual_encoder.DualEncoder`. ``layers`` pairs blocks of the image
    tower with blocks of the text tower, ``[(0, 0), (2, 1)]``; ``None`` takes all, which needs equal depths.

    Raises:
        ValueError: if the depths differ, a block does not exist, ``bottleneck`` or ``shared_dim`` does not
            fit the towers' widths, or the name is taken.
    """
    pairs = _all_pairs(encoder) if layers is None else tuple(tuple(pair) for pair in layers)
    config = CrossModalConfig(bottleneck, shared_dim, activation, init, init_std, dropout, pairs)
    refuse_occupied(encoder, name)
    _widths(encoder, config)
    sites = {site.path: site for tower in TOWERS for site in _sites(encoder, tower, config)}
    return install(encoder, _SPEC, config, sites, name=name, also_train=(), check_reach=False)


class CrossModalAdapters(SiteAdapter):
    """All bottlenecks of both towers, and what these have in common, each number once; at the encoder's root.

    Place ``2 i`` is after the attention of pair i, place ``2 i + 1`` after its MLP.
    """

    def __init__(self, image_width: int, text_width: int, config: "CrossModalConfig") -> None:
        super().__init__()
        places, rank, common = 2 * len(config.layers), config.bottleneck, config.shared_dim
        self.image = nn.ModuleList([Bottleneck(image_width, rank, common) for _ in range(places)])
        self.text = nn.ModuleList([Bottleneck(text_width, rank, common) for _ in range(places)])
        self.common = nn.ModuleList([Common(rank, common) for _ in range(places)])
        self.activation: Activation = config.activation
        self.dropout = config.dropout
        _initialise_(self, config.init, config.init_std)

    def forward(self, output: Any, inputs: tuple[Any, ...] = ()) -> Any:
        """Return the encoder's output as it is: the bottlenecks act inside."""
        return output

    def adapted(self, tower: Tower, place: int, states: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the states of a tower after the bottleneck of one place."""
        own: Any = (self.image if tower == "image" else self.text)[place]
        common: Any = self.common[place]
        return adapter(
            states,
            own.down_weight,
            own.down_bias,
            own.unique_weight,
            own.unique_bias,
            common.shared_weight,
            common.shared_bias,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
        )


def adapter(
    x: Float[Tensor, "... d"],
    down_w: Float[Tensor, "r d"],
    down_b: Float[Tensor, " r"],
    unique_w: Float[Tensor, "u r"],
    unique_b: Float[Tensor, " u"],
    shared_w: Float[Tensor, "s r"],
    shared_b: Float[Tensor, " s"],
    *,
    activation: Activation = "quick_gelu",
    dropout: float = 0.0,
) -> Float[Tensor, "... d"]:
    """Return ``x`` plus a bottleneck of it: own channels first, shared ones last (u + s = d).

    Computed in the weights' precision and returned in that of ``x``. ``dropout`` falls on the r inner values.
    """
    wide = x.to(down_w.dtype)
    inner = ACTIVATIONS[activation](F.linear(wide, down_w, down_b))
    inner = F.dropout(inner, dropout) if dropout else inner
    own, common = F.linear(inner, unique_w, unique_b), F.linear(inner, shared_w, shared_b)
    return (wide + torch.cat([own, common], dim=-1)).to(x.dtype)


def quick_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return ``x · sigmoid(1.702 x)``, the activation of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


# The authors' README says gelu; their code insists on quick-GELU, and we follow the code.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "relu": F.relu,
}
TOWERS: tuple[Tower, Tower] = ("image", "text")


class Bottleneck(nn.Module):
    """What one tower has of its own at one place: down to ``rank`` values, and up to all but the shared."""

    def __init__(self, width: int, rank: int, shared: int) -> None:
        super().__init__()
        self.down_weight = nn.Parameter(torch.zeros(rank, width))
        self.down_bias = nn.Parameter(torch.zeros(rank))
        self.unique_weight = nn.Parameter(torch.zeros(width - shared, rank))
        self.unique_bias = nn.Parameter(torch.zeros(width - shared))


class Common(nn.Module):
    """What both towers use at one place: from the ``rank`` inner values to the shared channels."""

    def __init__(self, rank: int, shared: int) -> None:
        super().__init__()
        self.shared_weight = nn.Parameter(torch.zeros(shared, rank))
        self.shared_bias = nn.Parameter(torch.zeros(shared))


@dataclass(frozen=True)
class CrossModalConfig:
    """What a stored set is rebuilt from."""

    bottleneck: int
    shared_dim: int
    activation: Activation
    init: Init
    init_std: float
    dropout: float
    layers: Pairs

    def __post_init__(self) -> None:
        for field, low in (("bottleneck", 1), ("shared_dim", 0)):
            if getattr(self, field) < low:
                raise ValueError(f"`{field}={getattr(self, field)}` must be at least {low}.")
        if self.activation not in ACTIVATIONS or self.init not in ("normal", "zero_up"):
            raise ValueError(
                f"`activation={self.activation!r}` must be one of {', '.join(ACTIVATIONS)}, "
                f"`init={self.init!r}` 'normal' or 'zero_up'."
            )
        if not all(len(pair) == 2 and all(type(i) is int for i in pair) for pair in self.layers):
            raise ValueError(f"`layers={self.layers!r}` must be pairs (image block, text block).")
        if not 0 <= self.dropout < 1 or not self.init_std >= 0:
            raise ValueError(
                f"`dropout={self.dropout}` must lie in 0…1 and `init_std={self.init_std}` not be negative."
            )


class CrossModalSite(SiteAdapter):
    """Sends the output of one attention or MLP through its bottleneck, which lives at the encoder's root."""

    def __init__(self, owner: CrossModalAdapters, tower: Tower, place: int) -> None:
        super().__init__()
        # In a tuple, so that the weights are registered once, at the root, and stored once.
        self.owner = (owner,)
        self.tower: Tower = tower
        self.place = place

    def forward(self, output: Any, inputs: tuple[Any, ...]) -> Any:
        """Return the output with its states adapted; attention may return more beside them."""
        (owner,) = self.owner
        if isinstance(output, tuple):
            return (owner.adapted(self.tower, self.place, output[0]), *output[1:])
        return owner.adapted(self.tower, self.place, output)


def _all_pairs(encoder: Any) -> tuple[tuple[int, int], ...]:
    image, text = (len(encoder.blocks(tower)) for tower in TOWERS)
    if image != text:
        raise ValueError(
            f"the image tower has {image} blocks and the text tower {text}; say which belong together by "
            "`layers=[(image block, text block), ...]`."
        )
    return tuple((i, i) for i in range(image))


def _sites(encoder: Any, tower: Tower, config: CrossModalConfig) -> list[Site]:
    """Where the bottlenecks of a tower go, in the order of their places; the kind says tower and place."""
    found = []
    for place, block in enumerate(_paired_blocks(encoder, tower, config.layers)):
        for offset, path in enumerate((block.attention, block.mlp)):
            found.append(Site(_last_step(encoder, path), f"{tower} {2 * place + offset}", block.width))
    return found


def _last_step(encoder: nn.Module, path: str) -> str:
    """The path of the layer that gives the output of ``path``: a Sequential would run our container too."""
    module = encoder.get_submodule(path)
    if not isinstance(module, nn.Sequential):
        return path
    return _last_step(encoder, f"{path}.{list(module._modules)[-1]}")


def _paired_blocks(encoder: Any, tower: Tower, pairs: Pairs) -> list[BlockSites]:
    blocks, side = encoder.blocks(tower), TOWERS.index(tower)
    chosen = [pair[side] for pair in pairs]
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < len(blocks) for i in chosen):
        raise ValueError(
            f"`layers` names the blocks {chosen} of the {tower} tower; give each of 0…{len(blocks) - 1} once "
            "at most, and one pair at least."
        )
    return [blocks[i] for i in chosen]


def _widths(encoder: Any, config: CrossModalConfig) -> tuple[int, int]:
    """The widths of the two towers, after checking that the settings fit them."""
    image, text = (_paired_blocks(encoder, tower, config.layers)[0].width for tower in TOWERS)
    for field in ("bottleneck", "shared_dim"):
        if getattr(config, field) > min(image, text):
            raise ValueError(
                f"`{field}={getattr(config, field)}` exceeds the narrower tower's width; the towers are "
                f"{image} (image) and {text} (text) wide."
            )
    return image, text


def _build_shared(encoder: Any, config: CrossModalConfig) -> CrossModalAdapters:
    try:
        widths = _widths(encoder, config)
    except (ValueError, AttributeError) as error:  # attach has checked: this is a file for another model
        raise AdapterMismatchError(f"the stored adapter is of another encoder: {error}") from None
    return CrossModalAdapters(*widths, config)


def _build(
    _layer: nn.Module, site: Site, config: CrossModalConfig, shared: nn.Module | None
) -> CrossModalSite:
    assert isinstance(shared, CrossModalAdapters)
    places = {f"{tower} {place}": (tower, place) for tower in TOWERS for place in range(len(shared.common))}
    if site.kind not in places:
        raise AdapterMismatchError(f"{site.path}: {site.kind!r} is no place in the adapters.")
    return CrossModalSite(shared, *places[site.kind])


def _initialise_(adapters: CrossModalAdapters, init: Init, std: float) -> None:
    for name, parameter in adapters.named_parameters():
        up = name.endswith(("unique_weight", "shared_weight"))
        if parameter.ndim > 1 and parameter.numel() and not (up and init == "zero_up"):
            # Cut at ±2, which at the published deviation of 0.01 never happens: a plain normal, as theirs.
            nn.init.trunc_normal_(parameter, std=std)


_SPEC = register(AdapterSpec("cross_modal_adapter", 1, CrossModalConfig, _build, _build_shared))
