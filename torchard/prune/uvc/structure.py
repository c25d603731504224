"""Where a vision transformer keeps its blocks, what is in them, and how large it all is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from torchard.core.budget import count_macs
from torchard.core.surgery import flags_kept
from torchard.prune.depgraph import DimGraph, Group, trace


class UnsupportedModel(ValueError):
    """A model that cannot be compressed this way; the message names the module and says why."""


@dataclass(frozen=True)
class Adapter:
    """The names under which a model keeps its blocks, and each block its attention and its MLP."""

    blocks: str = "blocks"
    qkv: str = "attn.qkv"
    proj: str = "attn.proj"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"

    @property
    def attn(self) -> str:
        """The module that holds ``qkv`` and ``proj``."""
        return self.proj.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class BlockParts:
    """One block, by its name, with the layers that are cut."""

    name: str
    attn: nn.Module
    qkv: nn.Linear
    proj: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear


@dataclass(frozen=True)
class ViTSpec:
    """The sizes of a transformer of equal blocks, and the MACs of what is outside them.

    ``width`` is that of the tokens, ``heads * head_width`` that of attention, ``hidden`` that of the MLP.
    """

    depth: int
    heads: int
    head_width: int
    hidden: int
    width: int
    tokens: int
    stem_macs: int
    head_macs: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole model on one image."""
        per_token = self.width * (4 * self.heads * self.head_width + 2 * self.hidden)
        block = self.tokens * per_token + 2 * self.tokens**2 * self.heads * self.head_width
        return self.stem_macs + self.head_macs + self.depth * block

    @classmethod
    def from_model(
        cls, model: nn.Module, example: Tensor | None = None, *, adapter: Adapter | None = None
    ) -> "ViTSpec":
        """Return the sizes of ``model``, from four forward passes on the first image of ``example``.

        Without an ``example`` zeros of the model's own input size are used. The sizes are checked against
        a count of the operations, and against what the pruning engine sees in a trace.

        Raises:
            UnsupportedModel: naming the module that is missing, of another kind or of another size.
        """
        adapter = adapter or Adapter()
        example = example_for(model) if example is None else example[:1]
        parts = parts_of(model, adapter)
        sizes = _common_sizes(parts)
        tokens = _tokens(model, example, parts)
        with _without_blocks(model, parts):
            outside = count_macs(model, example)
        head = min(_classifier_macs(model), outside)
        spec = cls(**sizes, depth=len(parts), tokens=tokens, stem_macs=outside - head, head_macs=head)
        counted = count_macs(model, example)
        if counted != spec.macs:
            raise UnsupportedModel(
                f"{parts[0].name} ({type(model.get_submodule(parts[0].name)).__name__}) and the other blocks "
                f"cost {counted - outside} MACs, where attention and MLP of these sizes cost "
                f"{spec.macs - outside}: they compute something else as well."
            )
        removable(trace(model, example), parts, spec)
        return spec


class Skipped(nn.Module):
    """What stands in the place of a block that was removed: it hands on its first input."""

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return ``tokens``."""
        return tokens


def parts_of(model: nn.Module, adapter: Adapter | None = None) -> list[BlockParts]:
    """Return the blocks of ``model`` in order.

    Raises:
        UnsupportedModel: naming the module that is missing or cannot be cut.
    """
    adapter = adapter or Adapter()
    blocks = _module(model, adapter.blocks, "a sequence of blocks")
    names = [f"{adapter.blocks}.{name}" for name, _ in blocks.named_children()]
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not names:
        raise UnsupportedModel(
            f"{adapter.blocks} is a {type(blocks).__name__}, expected a sequence of blocks."
        )
    return [_parts(model, name, adapter) for name in names]


def example_for(model: nn.Module) -> Tensor:
    """Return one image of zeros, of the size that the model's patch embedding asks for.

    Raises:
        ValueError: if the model does not say; an example must be given then.
    """
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    # The first convolution: before the projection there may be a whole convolutional network.
    layers = embedding.modules() if isinstance(embedding, nn.Module) else []
    layer = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    if not size or layer is None:
        raise ValueError(
            f"{type(model).__name__} does not say how large its images are; give one batch as `example=`."
        )
    return torch.zeros(1, layer.in_channels, *size, device=layer.weight.device, dtype=layer.weight.dtype)


def removable(
    graph: DimGraph, parts: Sequence[BlockParts], spec: ViTSpec
) -> list[tuple[Group | None, Group | None]]:
    """Return the pruning engine's groups of heads and of hidden units, block by block; None for a single one.

    Raises:
        UnsupportedModel: naming the layer, if removing one would change what the others compute.
    """
    names = {id(tensor): name for name, tensor in graph.tensors.items()}
    groups = graph.groups(heads="both")

    def group_of(layer: nn.Linear, units: int, span: int) -> Group | None:
        name = names[id(layer.weight)]
        found = next((group for group in groups if _is_of(group, name, units, span)), None)
        if found is None and units > 1:
            raise UnsupportedModel(
                f"{name}: its {units} inputs of {span} columns each cannot be removed one by one without "
                "changing what the others compute."
            )
        broken = graph.system.violated({found.axis: found.size - 1}) if found is not None else []
        if broken:
            raise UnsupportedModel(f"{name}: {broken[0].where} relies on its {units} inputs being all there.")
        return found

    return [
        (group_of(block.proj, spec.heads, spec.head_width), group_of(block.fc2, spec.hidden, 1))
        for block in parts
    ]


def sizes_of(parts: Sequence[BlockParts]) -> ViTSpec:
    """Return the sizes of blocks alone, with nothing around them and no tokens.

    Raises:
        UnsupportedModel: naming the block whose sizes differ, or do not fit each other.
    """
    return ViTSpec(**_common_sizes(parts), depth=len(parts), tokens=0, stem_macs=0, head_macs=0)


def check_value_widths(parts: Sequence[BlockParts]) -> None:
    """Refuse attention whose values cannot be narrowed apart from its queries and keys.

    Raises:
        UnsupportedModel: naming the first such attention.
    """
    for block in parts:
        if type(block.attn) is not Attention:
            raise UnsupportedModel(
                f"{block.name}: value dimensions can be removed from timm's plain Attention, not from "
                f"{type(block.attn).__name__}. Leave 'dims' out of `Search(prune=...)`."
            )


def _is_of(group: Group, name: str, units: int, span: int) -> bool:
    """Whether a group is the inputs of layer ``name``, ``span`` columns a unit, and goes without a trace."""
    if group.size != units or group.tags:
        return False
    members = [member for member in group.members if (member.name, member.dim) == (name, 1)]
    return any(all(unit == place // span for place, unit in zip(*member.places)) for member in members)


def _module(model: nn.Module, name: str, what: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise UnsupportedModel(
            f"{type(model).__name__} has no module {name}, expected {what}. "
            "If it has one under another name, say so by `Adapter`."
        ) from None


def _parts(model: nn.Module, name: str, adapter: Adapter) -> BlockParts:
    layers = {}
    for part in ("qkv", "proj", "fc1", "fc2"):
        path = f"{name}.{getattr(adapter, part)}"
        layer = _module(model, path, "a linear layer")
        if not isinstance(layer, nn.Linear):
            raise UnsupportedModel(f"{path} is a {type(layer).__name__}, expected a linear layer.")
        layers[part] = layer
    attn = model.get_submodule(f"{name}.{adapter.attn}")
    if not isinstance(getattr(attn, "num_heads", None), int):
        raise UnsupportedModel(f"{name}.{adapter.attn} ({type(attn).__name__}) has no `num_heads`.")
    return BlockParts(name, attn, **layers)


def _common_sizes(parts: Sequence[BlockParts]) -> dict[str, int]:
    sizes = [_sizes(block) for block in parts]
    for block, found in zip(parts, sizes):
        if found != sizes[0]:
            raise UnsupportedModel(
                f"{block.name} has sizes {found}, {parts[0].name} {sizes[0]}: all must agree."
            )
    return sizes[0]


def _sizes(block: BlockParts) -> dict[str, int]:
    heads, inner = int(block.attn.num_heads), block.proj.in_features  # type: ignore[arg-type]
    if block.qkv.out_features != 3 * inner or inner % heads:
        raise UnsupportedModel(
            f"{block.name}: qkv gives {block.qkv.out_features} features and proj takes {inner}, expected "
            f"three times as many for {heads} equal heads."
        )
    if block.fc1.out_features != block.fc2.in_features:
        raise UnsupportedModel(
            f"{block.name}: fc1 gives {block.fc1.out_features} features, fc2 takes {block.fc2.in_features}."
        )
    width = block.qkv.in_features
    return {"heads": heads, "head_width": inner // heads, "hidden": block.fc2.in_features, "width": width}


def _tokens(model: nn.Module, example: Tensor, parts: Sequence[BlockParts]) -> int:
    """How many tokens go through the blocks; the same through all."""
    seen: dict[str, tuple[Any, Any]] = {}

    def remember(name: str) -> Any:
        return lambda _, given, returned: seen.update({name: (_shape(given[0]), _shape(returned))})

    hooks = [model.get_submodule(block.name).register_forward_hook(remember(block.name)) for block in parts]
    try:
        with flags_kept(model), torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    first = seen.get(parts[0].name, (None, None))[0]
    for block in parts:
        given, returned = seen.get(block.name, (None, None))
        if given is None or len(given) != 3 or given != returned or given != first:
            raise UnsupportedModel(
                f"{block.name} takes {given} and returns {returned}, expected batch x tokens x width, "
                "the same in every block."
            )
    assert first is not None
    return int(first[1])


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _classifier_macs(model: nn.Module) -> int:
    ask: Any = getattr(model, "get_classifier", None)
    classifier = ask() if ask is not None else getattr(model, "head", None)
    layers = classifier if isinstance(classifier, tuple | list) else [classifier]
    return sum(layer.in_features * layer.out_features for layer in layers if isinstance(layer, nn.Linear))


@contextmanager
def _without_blocks(model: nn.Module, parts: Sequence[BlockParts]) -> Iterator[None]:
    blocks = {block.name: model.get_submodule(block.name) for block in parts}
    try:
        for name in blocks:
            model.set_submodule(name, Skipped())
        yield
    finally:
        for name, block in blocks.items():
            model.set_submodule(name, block)
