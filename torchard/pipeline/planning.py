"""What a second of training buys on this machine, and the plan made of it: steps, input sizes, precision."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from torchard.core.data import InputSpec, Task
from torchard.core.launch import accelerator_for
from torchard.core.surgery import flags_kept, hold_frozen_
from torchard.pipeline.fusion import fuse_
from torchard.tune.tune_mode import detach

Precision = Literal["no", "bf16"]
BATCH_SIZE = 32
MOST_EPOCHS = 30
FEWEST_EPOCHS = 4  # below either, a smaller input buys more than its pixels are worth
FEWEST_STEPS = 600
SMALLEST = 64
STRIDE = 32
OVERHEAD = 1.2  # augmentation, optimiser, averaging and validation, on top of forward and backward
FIXED = 0.2  # of a step's time at the size it was measured at does not depend on the size
FEW = 2  # images that tell whether bfloat16 is worth measuring
WORTH_ROUNDING = 1.15  # bfloat16 must be so much faster to be worth its coarser numbers
GROWTH = (0.6, 0.75, 0.9, 1.0)  # input sizes of the four phases, as shares of the final one


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that one training image takes at one input size, in the faster precision."""

    size: int
    precision: Precision
    seconds: float

    def at(self, size: int) -> float:
        """Return the seconds that an image of another size takes: a part grows with the area."""
        return self.seconds * (FIXED + (1 - FIXED) * (size / self.size) ** 2)

    def with_extra(self, seconds: float) -> "Pace":
        """Return the pace of a training in which each image costs so much more, as for a teacher."""
        return replace(self, seconds=self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a training will go: how many steps, at which input sizes in turn, in which precision."""

    steps: int
    sizes: tuple[int, ...]
    precision: Precision
    batch_size: int = BATCH_SIZE

    def __str__(self) -> str:
        sizes = " to ".join(str(size) for size in dict.fromkeys((self.sizes[0], self.sizes[-1])))
        return f"{self.steps} steps of {self.batch_size} images at {sizes} px"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the run folder."""
        return {
            "steps": self.steps,
            "sizes": list(self.sizes),
            "precision": self.precision,
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """Return the plan that :meth:`to_json` wrote."""
        return cls(int(values["steps"]), tuple(values["sizes"]), values["precision"], values["batch_size"])


def measure_pace(model: nn.Module, size: int, *, batch_size: int = BATCH_SIZE) -> Pace:
    """Return what one training image costs at ``size``, in bfloat16 if that is clearly faster than float32.

    A handful of real steps of what is trained in ``model``, without an optimizer; afterwards its weights,
    statistics and flags are as they were, and it has no gradients. Where two images say that bfloat16 is the
    slower it is not measured further: processors without it imitate it, at ten times the time and more.
    """
    device = accelerator_for("no").device  # where the Trainer will train
    images = example_images(batch_size, size).to(device)
    targets = torch.zeros(batch_size, dtype=torch.int64, device=device)
    buffers = {name: value.clone() for name, value in model.named_buffers()}

    def pace(precision: Precision, count: int, repeats: int = 3) -> Pace:
        def step() -> None:
            with autocast(device, precision):
                outputs = model(images[:count])
            functional.cross_entropy(outputs.float(), targets[:count]).backward()
            _wait(device)

        return Pace(size, precision, OVERHEAD * _seconds(step, repeats) / count)

    with flags_kept(model.to(device)):
        hold_frozen_(model.train())
        exact = half = pace("no", batch_size)
        if pace("bf16", FEW, 1).seconds < pace("no", FEW, 1).seconds:
            half = pace("bf16", batch_size)
    model.to("cpu").zero_grad(set_to_none=True)
    for name, value in model.named_buffers():
        value.copy_(buffers[name])
    return half if half.seconds * WORTH_ROUNDING < exact.seconds else exact


def inference_seconds(model: nn.Module, size: int, precision: Precision) -> float:
    """Return what one image of a batch costs in inference at ``size``."""
    device = accelerator_for("no").device
    images = example_images(BATCH_SIZE, size).to(device)

    def step() -> None:
        with torch.inference_mode(), autocast(device, precision):
            model(images)
        _wait(device)

    with flags_kept(model.to(device)):
        fuse_(model.eval())
        seconds = _seconds(step) / BATCH_SIZE
    detach(model).to("cpu")
    return seconds


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model computes in ``precision`` on ``device``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are."""
    return next(model.parameters()).device


def example_images(count: int, size: int) -> Float[Tensor, "n 3 s s"]:
    """Return random images, always the same ones, channels last."""
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def phase_sizes(final: int) -> tuple[int, ...]:
    """Return the input sizes that lead up to ``final``, in whole strides; a small one stands alone."""
    if final < 3 * STRIDE:
        return (final,)
    smaller = [max(SMALLEST, int(final * share / STRIDE + 0.5) * STRIDE) for share in GROWTH[:-1]]
    return (*(min(size, final) for size in smaller), final)


def affordable_sizes(pace: Pace, images: int, seconds: float, *, largest: int) -> tuple[int, ...]:
    """Return the phases of the largest final size, up to ``largest``, that gets :func:`least_images` in time.

    Costs are what :meth:`Pace.at` makes of the ``pace`` measured at one size.
    """
    for final in range(largest, SMALLEST, -STRIDE):
        if least_images(images) * _mean_cost(pace, phase_sizes(final)) <= seconds:
            return phase_sizes(final)
    return phase_sizes(min(SMALLEST, largest))


def least_images(images: int) -> int:
    """Return how many images a training should see: a few epochs, more on little data for enough steps."""
    return min(max(FEWEST_EPOCHS * images, FEWEST_STEPS * BATCH_SIZE), MOST_EPOCHS * images)


def plan_training(pace: Pace, sizes: Sequence[int], images: int, seconds: float) -> Plan:
    """Return as many steps as fit ``seconds``, but at most ``MOST_EPOCHS`` passes over the images."""
    batch_size = min(BATCH_SIZE, images)
    fitting = int(seconds / (batch_size * _mean_cost(pace, sizes)))
    most = math.ceil(MOST_EPOCHS * images / batch_size)
    return Plan(max(1, min(fitting, most)), tuple(sizes), pace.precision, batch_size)


def largest_size(task: Task, spec: InputSpec) -> int:
    """Return the largest input worth its time: the model's own, or that of the images if they are smaller."""
    own, images = min(spec.size), task.image_size
    if images is None:
        return own
    return min(own, max(SMALLEST, math.ceil(max(images) / STRIDE) * STRIDE))


def _seconds(step: Callable[[], None], repeats: int = 3) -> float:
    """The median over a few calls, after one that warms up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    """Let an accelerator finish what it was told, so that a clock tells the truth."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _mean_cost(pace: Pace, sizes: Sequence[int]) -> float:
    """Seconds per image, averaged over the phases."""
    return statistics.fmean(pace.at(size) for size in sizes)
