"""What a training needs of accelerate and the file system to start, in one process or several."""

import contextlib
import os
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from torchard.core.errors import UsageError
from torchard.core.files import one_line
from torchard.core.run import RunFolder, Stage, read_marker

_PRECISIONS = ("no", "bf16", "fp16")
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_ONE_PROCESS = (
    "`accelerate launch --cpu` started one process only: it needs MPI for more. For several on CPUs use "
    "`accelerate launch --multi_gpu --num_processes N`, which works there too, or `torchrun`."
)


def accelerator_for(precision: str | None) -> Accelerator:
    """Return accelerate's handle on device, processes and precision (``None``: as launched, else ``"no"``).

    Raises:
        UsageError: for an unknown precision, or a launch whose checkpoints are spread over processes.
    """
    wanted = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted not in _PRECISIONS:
        raise UsageError(f"`precision={wanted!r}` is unknown; choose {', '.join(_PRECISIONS)}.")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        # accelerate allows one precision per process; every fit here has its own.
        AcceleratorState._reset_state()
    # Without a GPU accelerate has to be told so, or every process launched would think itself alone.
    try:
        accelerator = Accelerator(mixed_precision=wanted, cpu=not torch.accelerator.is_available())
    except ValueError as error:
        raise UsageError(f"`precision={wanted!r}` is not to be had here: {one_line(error)}") from None
    if accelerator.num_processes == 1 and _wanted_several(os.environ):
        warnings.warn(_ONE_PROCESS, stacklevel=3)
    if accelerator.distributed_type in _SHARDED:
        raise UsageError(
            f"Launched with {accelerator.distributed_type.value}; the Trainer needs whole models (DDP)."
        )
    return accelerator


def _wanted_several(environment: Mapping[str, str]) -> bool:
    """Whether ``accelerate launch --cpu`` was asked for several: only then it names a port to meet at."""
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    return on_cpu and "MASTER_PORT" in environment


def unprepare(accelerator: Accelerator, model: nn.Module, wrapped: nn.Module) -> None:
    """Take off what accelerate put on the user's model, so that it can be saved, pruned or trained again."""
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    model.__dict__.pop("_is_accelerate_prepared", None)


def stage_for(
    folder: RunFolder | Stage | Path | None, accelerator: Accelerator, stack: contextlib.ExitStack
) -> Stage | None:
    """Return where this training keeps its files; a path is opened here and closed with ``stack``.

    Of several processes the first opens it, and only the first may write.
    """
    if folder is None or isinstance(folder, Stage):
        return folder
    if isinstance(folder, Path):
        if accelerator.is_main_process:
            settings = None if read_marker(folder) else {"created": datetime.now(UTC).isoformat()}
            opened = stack.enter_context(RunFolder.open(folder, settings))
        accelerator.wait_for_everyone()
        folder = opened if accelerator.is_main_process else RunFolder.view(folder)
    return folder.stage("train")


def mean_over_processes(accelerator: Accelerator, *values: float | int) -> list[float]:
    """Return the mean of each value over all processes; in one process the values, exactly."""
    if accelerator.num_processes == 1:
        return [float(value) for value in values]
    tensor = torch.tensor(values, dtype=torch.float32, device=accelerator.device)
    return list(accelerator.reduce(tensor, "mean").tolist())
