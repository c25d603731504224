"""Train one model in as many processes as were launched; the first prints what came out, to be compared.

Run as ``accelerate launch --multi_gpu --num_processes 2 several_processes.py FOLDER`` (on CPUs too), or as
``python several_processes.py FOLDER`` for one.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchard.core.data import Batch
from torchard.core.trainer import Callback, Trainer


class Seen(Callback):
    """Note which samples this process works on."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_batch(self, run, batch: Batch) -> Batch:
        self.sizes.append(len(batch.inputs))
        return batch


class StopAt(Callback):
    """Ask for a stop in one process only."""

    def on_step_end(self, run) -> None:
        if run.step == 3 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            run.stop("one of us wished it")


def trainer(
    folder: Path | None = None, callbacks=(), hidden: nn.Module | None = None, size=5, **budget
) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(31, 6, generator=generator), torch.randn(31, 1, generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), hidden or nn.Tanh(), nn.Linear(16, 1))
    return Trainer(
        model,
        nn.functional.mse_loss,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        DataLoader(TensorDataset(inputs, targets), batch_size=size, shuffle=True),
        evaluate=lambda model: {"error": nn.functional.mse_loss(model(inputs), targets)},
        callbacks=callbacks,
        folder=folder,
        **budget,
    )


def weights(trainer: Trainer) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]).tolist()


def main(root: Path) -> None:
    seen = Seen()
    whole = trainer(callbacks=[seen], epochs=4)
    result = whole.fit()
    accumulated = trainer(epochs=2)
    accumulated.fit(accumulate=2)
    trainer(root / "run", steps=9).fit()
    resumed = trainer(root / "run", epochs=4)
    normalised = trainer(epochs=2, hidden=nn.BatchNorm1d(16), size=8)
    normalised.fit()
    state = normalised.model.state_dict()
    answer = {
        "history": result.history,
        "weights": weights(whole),
        "accumulated": weights(accumulated),
        "sizes": seen.sizes[:7],
        "resumed history": resumed.fit().history[2:],
        "resumed": weights(resumed),
        "normalised": {name: tensor.tolist() for name, tensor in state.items()},
        "stopped": trainer(callbacks=[StopAt()], epochs=2).fit().steps,
        "lines": len((root / "run" / "metrics.jsonl").read_text().splitlines()),
    }
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (root / f"{rank}.json").write_text(json.dumps(answer))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
