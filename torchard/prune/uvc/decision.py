"""What goes and what stays, as numbers that can be saved, and what that costs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchard.prune.uvc.cost import block_macs
from torchard.prune.uvc.scores import Scores
from torchard.prune.uvc.structure import ViTSpec

Places = tuple[int, ...]


@dataclass(frozen=True)
class UVCDecision:
    """The removed heads, value dimensions (by head) and MLP units of every block, and the blocks skipped.

    A removed head has no dimensions listed, a skipped block nothing. Unless ``ragged``, the heads of a block
    lose equally many dimensions.
    """

    heads: tuple[Places, ...]
    dims: tuple[tuple[Places, ...], ...]
    units: tuple[Places, ...]
    skipped: Places
    ragged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "UVCDecision":
        """Return the decision that :meth:`to_json` wrote.

        Raises:
            ValueError: if something is missing or of another kind.
        """
        try:
            return cls(
                heads=tuple(map(_places, data["heads"])),
                dims=tuple(tuple(map(_places, block)) for block in data["dims"]),
                units=tuple(map(_places, data["units"])),
                skipped=_places(data["skipped"]),
                ragged=bool(data["ragged"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no decision: {type(error).__name__} {error}") from None

    @classmethod
    def dense(cls, spec: ViTSpec) -> "UVCDecision":
        """Return the decision to remove nothing."""
        nothing: tuple[Places, ...] = ((),) * spec.depth
        return cls(nothing, (((),) * spec.heads,) * spec.depth, nothing, ())

    def check(self, spec: ViTSpec) -> None:
        """Refuse what does not fit a model.

        Raises:
            ValueError: for other numbers of blocks or heads, places outside, or nothing left.
        """
        if {len(self.heads), len(self.dims), len(self.units)} != {spec.depth}:
            raise ValueError(f"the decision is for {len(self.heads)} blocks, the model has {spec.depth}")
        _check_places("blocks", self.skipped, spec.depth)
        for number, (heads, dims, units) in enumerate(zip(self.heads, self.dims, self.units)):
            _check_places(f"heads of block {number}", heads, spec.heads)
            _check_places(f"units of block {number}", units, spec.hidden)
            if len(dims) != spec.heads:
                raise ValueError(f"block {number}: dims of {len(dims)} heads, the model has {spec.heads}")
            for head, places in enumerate(dims):
                _check_places(f"dims of head {head} of block {number}", places, spec.head_width)
            lost = {len(places) for head, places in enumerate(dims) if head not in heads}
            if not self.ragged and len(lost) > 1:
                raise ValueError(f"block {number}: heads lose {sorted(lost)} dims, but `ragged` is false")

    def macs(self, spec: ViTSpec) -> int:
        """Return the MACs of the exported model on one image.

        With ragged value widths, attention itself runs at the largest width among a block's heads.
        """
        total = spec.stem_macs + spec.head_macs
        for number in set(range(spec.depth)) - set(self.skipped):
            widths = [
                spec.head_width - len(places)
                for head, places in enumerate(self.dims[number])
                if head not in self.heads[number]
            ]
            total += exported_block_macs(spec, widths, spec.hidden - len(self.units[number]))
        return total

    def summary(self, spec: ViTSpec) -> dict[str, Any]:
        """Return what is left of heads, value dimensions, units, blocks and MACs, each as (left, before)."""
        kept = sorted(set(range(spec.depth)) - set(self.skipped))
        heads = sum(spec.heads - len(self.heads[number]) for number in kept)
        gone = sum(len(places) for number in kept for places in self.dims[number])
        return {
            "blocks": (len(kept), spec.depth),
            "heads": (heads, spec.depth * spec.heads),
            "dims": (heads * spec.head_width - gone, spec.depth * spec.heads * spec.head_width),
            "units": (sum(spec.hidden - len(self.units[n]) for n in kept), spec.depth * spec.hidden),
            "macs": (self.macs(spec), spec.macs),
        }


@dataclass(frozen=True, eq=False)
class Counts:
    """How many of the cheapest heads, dimensions of each head, and units go; and which blocks stay."""

    heads: Int[Tensor, " l"]
    dims: Int[Tensor, "l h"]
    units: Int[Tensor, " l"]
    keep: Bool[Tensor, " l"]

    @classmethod
    def of(
        cls, s: Float[Tensor, "l 2"], r: Float[Tensor, "l _"], keep: Bool[Tensor, " l"], heads: int
    ) -> "Counts":
        """Return the counts that the variables stand for."""
        gone = s.ceil().long()
        return cls(gone[:, 0], r.ceil().long().expand(-1, heads).clone(), gone[:, 1], keep.clone())

    def decision(self, scores: Scores, *, ragged: bool) -> UVCDecision:
        """Return which they are: the cheapest by ``scores``, of equal ones the first."""
        by_head, by_unit = _order(scores.heads), _order(scores.units)
        by_dim = scores.dims.sort(dim=2, stable=True).indices.tolist()
        heads, dims, units = [], [], []
        for number, kept in enumerate(self.keep.tolist()):
            gone = sorted(by_head[number][: int(self.heads[number])]) if kept else []
            counts = self.dims[number].tolist()
            heads.append(tuple(gone))
            dims.append(
                tuple(
                    tuple(sorted(order[:count])) if kept and head not in gone else ()
                    for head, (order, count) in enumerate(zip(by_dim[number], counts))
                )
            )
            units.append(tuple(sorted(by_unit[number][: int(self.units[number])])) if kept else ())
        skipped = tuple(number for number, kept in enumerate(self.keep.tolist()) if not kept)
        return UVCDecision(tuple(heads), tuple(dims), tuple(units), skipped, ragged)


def exported_block_macs(spec: ViTSpec, widths: list[int], units: int) -> int:
    """Return the MACs of a block whose surviving heads have values of ``widths``, as it will be run."""
    padding = spec.tokens**2 * (len(widths) * max(widths) - sum(widths))
    return block_macs(spec, len(widths), sum(widths), units) + padding


def _order(scores: Tensor) -> list[list[int]]:
    return scores.sort(dim=1, stable=True).indices.tolist()


def _places(values: Iterable[Any]) -> Places:
    if any(type(value) is not int for value in values):
        raise TypeError("places must be whole numbers")
    return tuple(sorted(values))


def _check_places(what: str, places: Places, size: int) -> None:
    if len(set(places)) != len(places) or any(not 0 <= place < size for place in places):
        raise ValueError(f"{what}: {list(places)[:5]} must be different numbers from 0 to {size - 1}")
    if len(places) >= size:
        raise ValueError(f"{what}: removing all {size} would leave nothing")
