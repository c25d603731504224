"""Bring counts under a budget, cheapest first, and give back what the budget still has room for."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from torchard.prune.uvc.decision import Counts, exported_block_macs
from torchard.prune.uvc.scores import Scores
from torchard.prune.uvc.structure import ViTSpec

WORTHLESS = 1e-6  # as a share of all scores: given back, it would cost MACs and do nothing


def project(
    counts: Counts,
    scores: Scores,
    spec: ViTSpec,
    target: float | int,
    *,
    kinds: Collection[str],
    ragged: bool = False,
) -> Counts:
    """Return counts whose exported model costs at most ``target`` MACs on one image.

    First whatever has the lowest score per MAC saved goes, one head, dimension or unit at a time; whole
    blocks only when nothing else is left. Then what has the highest score per MAC comes back, as far as there
    is room; skipped blocks do not. Costs O(number of units) cheap steps.

    Raises:
        ValueError: if even one of everything costs more than ``target``.
    """
    layout = _Layout(counts, scores, spec, frozenset(kinds), ragged)
    layout.shrink(float(target))
    layout.fill(float(target), WORTHLESS * scores.total)
    return layout.counts()


def floor_macs(spec: ViTSpec, kinds: Collection[str]) -> int:
    """Return what is left when everything goes that may: one block, head, dimension and unit."""
    heads = 1 if "heads" in kinds else spec.heads
    width = 1 if "dims" in kinds else spec.head_width
    units = 1 if "mlp" in kinds else spec.hidden
    depth = 1 if "blocks" in kinds else spec.depth
    block = exported_block_macs(spec, [width] * heads, units)
    return spec.stem_macs + spec.head_macs + depth * block


@dataclass(frozen=True)
class _Move:
    """A change of one block, by what it does to scores (``worth``) and MACs (``price``); both positive."""

    kind: str
    block: int
    head: int
    worth: float
    price: int


class _Layout:
    """Counts on their way, with what each further step would cost."""

    def __init__(
        self, counts: Counts, scores: Scores, spec: ViTSpec, kinds: frozenset[str], ragged: bool
    ) -> None:
        self.spec, self.kinds, self.ragged = spec, kinds, ragged
        self.heads, self.units = counts.heads.tolist(), counts.units.tolist()
        self.dims, self.keep = counts.dims.tolist(), counts.keep.tolist()
        self.head_order = scores.heads.sort(dim=1, stable=True).indices.tolist()
        self.unit_scores = scores.units.sort(dim=1, stable=True).values.tolist()
        self.dim_scores = scores.dims.sort(dim=2, stable=True).values.tolist()
        self.macs = spec.stem_macs + spec.head_macs
        self.macs += sum(self._cost(number) for number in range(spec.depth) if self.keep[number])

    def counts(self) -> Counts:
        return Counts(
            torch.tensor(self.heads),
            torch.tensor(self.dims),
            torch.tensor(self.units),
            torch.tensor(self.keep),
        )

    def shrink(self, target: float) -> None:
        moves = {number: list(self._losses(number)) for number in range(self.spec.depth) if self.keep[number]}
        while self.macs > target:
            best = min((m for found in moves.values() for m in found), key=_value, default=None)
            if best is None:
                best = self._least_block()
                del moves[best.block]
                self.keep[best.block] = False
            else:
                self._change(best, 1)
                moves[best.block] = list(self._losses(best.block))
            self.macs -= best.price

    def fill(self, target: float, worthless: float) -> None:
        moves = {number: list(self._gains(number)) for number in range(self.spec.depth) if self.keep[number]}
        while True:
            room = [
                move
                for found in moves.values()
                for move in found
                if move.worth > worthless and self.macs + move.price <= target
            ]
            if not room:
                return
            best = max(room, key=_value)
            self._change(best, -1)
            moves[best.block] = list(self._gains(best.block))
            self.macs += best.price

    def _losses(self, number: int) -> Iterator[_Move]:
        """What the block could lose next."""
        spec, left = self.spec, self.head_order[number][self.heads[number] :]
        if "mlp" in self.kinds and self.units[number] < spec.hidden - 1:
            worth = self.unit_scores[number][self.units[number]]
            yield self._move("unit", number, 0, worth, 1)
        if "heads" in self.kinds and len(left) > 1:
            yield self._move("head", number, left[0], self._head_worth(number, left[0]), 1)
        if "dims" in self.kinds:
            groups = [[head] for head in left] if self.ragged else [left]
            for heads in groups:
                if self.dims[number][heads[0]] < spec.head_width - 1:
                    worth = sum(self.dim_scores[number][head][self.dims[number][head]] for head in heads)
                    yield self._move("dim", number, heads[0], worth, 1)

    def _gains(self, number: int) -> Iterator[_Move]:
        """What the block could get back next; a head comes with the widths that the others have."""
        order, gone = self.head_order[number], self.heads[number]
        if self.units[number]:
            worth = self.unit_scores[number][self.units[number] - 1]
            yield self._move("unit", number, 0, worth, -1)
        if gone:
            yield self._move("head", number, order[gone - 1], self._head_worth(number, order[gone - 1]), -1)
        left = order[gone:]
        for heads in [[head] for head in left] if self.ragged else [left]:
            if self.dims[number][heads[0]]:
                worth = sum(self.dim_scores[number][head][self.dims[number][head] - 1] for head in heads)
                yield self._move("dim", number, heads[0], worth, -1)

    def _move(self, kind: str, number: int, head: int, worth: float, step: int) -> _Move:
        before, move = self._cost(number), _Move(kind, number, head, worth, 0)
        self._change(move, step)
        price = step * (before - self._cost(number))
        self._change(move, -step)
        return _Move(kind, number, head, worth, price)

    def _change(self, move: _Move, step: int) -> None:
        number = move.block
        if move.kind == "unit":
            self.units[number] += step
        elif move.kind == "head":
            self.heads[number] += step
        else:
            # Tied widths are those of all heads, also of the removed ones, which may come back.
            for head in [move.head] if self.ragged else range(self.spec.heads):
                self.dims[number][head] += step

    def _cost(self, number: int) -> int:
        left = self.head_order[number][self.heads[number] :]
        widths = [self.spec.head_width - self.dims[number][head] for head in left]
        return exported_block_macs(self.spec, widths, self.spec.hidden - self.units[number])

    def _head_worth(self, number: int, head: int) -> float:
        return sum(self.dim_scores[number][head][self.dims[number][head] :])

    def _least_block(self) -> _Move:
        kept = [number for number, keep in enumerate(self.keep) if keep]
        if "blocks" not in self.kinds or len(kept) == 1:
            raise ValueError(
                f"no decision meets the budget: what may be removed is, and {self.macs} MACs are left."
            )
        moves = [_Move("block", n, 0, self._block_worth(n), self._cost(n)) for n in kept]
        return min(moves, key=_value)

    def _block_worth(self, number: int) -> float:
        left = self.head_order[number][self.heads[number] :]
        units = sum(self.unit_scores[number][self.units[number] :])
        return units + sum(self._head_worth(number, head) for head in left)


def _value(move: _Move) -> float:
    return move.worth / max(move.price, 1)
