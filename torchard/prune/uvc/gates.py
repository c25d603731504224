"""One gate a block, which learns whether the block is run or skipped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchard.core.errors import UsageError

GateKind = Literal["gumbel", "l0"]
TEMPERATURE = 0.5
WARM = 0.5  # the share of every block while the gates rest


def gumbel_keep(
    logits: Float[Tensor, "l 2"], noise: Float[Tensor, "l 2"], temperature: float = TEMPERATURE
) -> Float[Tensor, " l"]:
    """Return the keep component of a softmax over ``(logits + noise) / temperature``."""
    return ((logits + noise) / temperature).softmax(dim=1)[:, 1]


def l0_keep(logits: Float[Tensor, "l 2"], epoch: int) -> Float[Tensor, " l"]:
    """Return g² / (g² + ε) of the keep logits, where ε falls from 0.1 by 8 % an epoch."""
    squares = logits[:, 1].square()
    return squares / (squares + 0.1 * 0.92**epoch)


class Gates:
    """The gate logits (skip, keep) of all blocks, and the noise of the present forward pass.

    The noise comes from a generator of its own, seeded alike in all processes; one draw serves the forward
    pass and the resource. With ``learnt=False`` all blocks are always run.
    """

    def __init__(self, depth: int, kind: GateKind = "gumbel", *, learnt: bool = True, seed: int = 0) -> None:
        if kind not in ("gumbel", "l0"):
            raise ValueError(f"`gate={kind!r}` must be 'gumbel' or 'l0'.")
        self.kind, self.learnt = kind, learnt
        self.logits = torch.tensor([[-1.0, 1.0]]).repeat(depth, 1).requires_grad_()
        self.momentum = torch.zeros(depth, 2)
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = torch.zeros(depth, 2)
        self.epoch, self.warm = 0, False
        self.backpropagated = False

    def draw(self) -> None:
        """Take new noise for the next forward pass."""
        uniform = torch.rand(self.noise.shape, generator=self.generator, dtype=torch.float64)
        self.noise = -(-uniform.clamp(min=1e-12).log()).log().float()

    def soft(self) -> Float[Tensor, " l"]:
        """Return the share of each block in its output while training, for the present noise."""
        if not self.learnt:
            return torch.ones(len(self.logits))
        if self.warm:
            return torch.full((len(self.logits),), WARM)
        return (
            gumbel_keep(self.logits, self.noise)
            if self.kind == "gumbel"
            else l0_keep(self.logits, self.epoch)
        )

    @torch.no_grad()
    def hard(self) -> Bool[Tensor, " l"]:
        """Return which blocks are run for good; at least one is."""
        if not self.learnt:
            return torch.ones(len(self.logits), dtype=torch.bool)
        if self.kind == "gumbel":
            lead = self.logits[:, 1] - self.logits[:, 0]
        else:
            lead = l0_keep(self.logits, self.epoch) - 0.5
        keep = lead > 0
        keep[lead.argmax()] = True
        return keep

    @torch.no_grad()
    def update(
        self,
        gradient: Float[Tensor, "l 2"],
        *,
        lr: float | int,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        """Take one step of SGD along ``gradient``."""
        self.momentum = momentum * self.momentum + gradient + weight_decay * self.logits
        self.logits -= lr * self.momentum

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes."""
        return {
            "logits": self.logits.detach().clone(),
            "momentum": self.momentum.clone(),
            "noise": self.noise.clone(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "warm": self.warm,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        self.logits = state["logits"].clone().requires_grad_()
        self.momentum, self.noise = state["momentum"].clone(), state["noise"].clone()
        self.generator.set_state(state["generator"])
        self.epoch, self.warm = state["epoch"], state["warm"]


@dataclass(frozen=True, eq=False)
class Attachment:
    """Gates at work in a model."""

    hooks: tuple[Any, ...]

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()


def attach(model: nn.Module, gates: Gates, names: Sequence[str]) -> Attachment:
    """Let ``gates`` weigh the blocks ``names`` of ``model``: κ·Block(x) + (1 − κ)·x, both ways in one.

    In training mode κ is soft, with fresh noise each forward pass; in eval mode it is 1 or 0. The gates stay
    outside the model: they are in no parameter group and no state dict of its.
    """
    shares: dict[str, Tensor] = {}

    def begin(*_: Any) -> None:
        if model.training:
            gates.draw()
            shares.update(zip(names, gates.soft()))
        else:
            shares.update(zip(names, gates.hard()))

    hooks = [model.register_forward_pre_hook(_Hook(begin))]
    for name in names:
        hook = _Hook(_weigh(gates, shares, name, last=name == names[-1]))
        hooks.append(model.get_submodule(name).register_forward_hook(hook))
    return Attachment(tuple(hooks))


def strip(model: nn.Module) -> None:
    """Take all gates out of ``model``: of a copy, which an :class:`Attachment` of the original misses."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
                del hooks[key]


class _Hook:
    """A hook that a deep copy of a model shares with it, and that can be told from others'."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __deepcopy__(self, _: Any) -> "_Hook":
        return self


def _weigh(gates: Gates, shares: Mapping[str, Tensor], name: str, *, last: bool) -> Callable[..., Tensor]:
    def weigh(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        share = shares[name]
        if share.dtype == torch.bool:
            return output if share else given[0]
        if output.dtype == torch.float16:
            raise UsageError("the gates' gradients are not scaled: use precision 'no' or 'bf16', not 'fp16'.")
        if last and output.requires_grad:
            output.register_hook(lambda _: setattr(gates, "backpropagated", True))
        if not gates.learnt:
            return output
        share = share.to(output.device, output.dtype)
        return share * output + (1 - share) * given[0]

    return weigh
