"""One training loop: stops on epochs, steps or seconds, and goes on after a kill with the same numbers."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim import Optimizer

from torchard.core.allowance import LIMITS, Allowance
from torchard.core.callback import Callback, FitResult, TrainingRun
from torchard.core.data.batch import Batch
from torchard.core.divergence import Watch, gradient_norm
from torchard.core.errors import InterruptedRunError, UsageError
from torchard.core.interrupt import Interruption, postponed_interrupts
from torchard.core.keeper import Keeper
from torchard.core.launch import accelerator_for, mean_over_processes, stage_for, unprepare
from torchard.core.layout import memory_format, placed_batch
from torchard.core.ledger import Ledger
from torchard.core.progress import progress_bar
from torchard.core.randomness import randomness_kept, seed_everything
from torchard.core.run import RunFolder, Stage, to_plain
from torchard.core.schedule import Schedule, Scheduler
from torchard.core.stream import BatchStream, share
from torchard.core.surgery import flags_kept

__all__ = ["Batch", "Callback", "FitResult", "Trainer", "TrainingRun"]

LOG_EVERY = 10  # steps, not seconds: a resumed run must log the same lines


class Trainer:
    """Minimise ``criterion(model(inputs), targets)`` over a loader, within a budget.

    Of ``epochs``, ``steps`` and ``seconds`` at least one; the first to be used up ends the training. Seconds
    count all of :meth:`fit`, with the last evaluation and the time before a kill.

    ``scheduler`` is a function from the used fraction of the budget (0 to 1) to a factor on each learning
    rate, or a torch ``LRScheduler``, stepped after every optimizer step. ``evaluate`` is called with the
    model, in evaluation mode, after each epoch and at the end. At first all modules are in training mode;
    what should not be is set by a callback in ``on_fit_start``.

    ``folder`` (a path, a run, or a stage of one) gets metrics and checkpoints; if it has a checkpoint, fit
    goes on from there to the same numbers, bit for bit on one thread. Give a path under ``accelerate
    launch``: each process takes its share of every batch, so that several train on the same batches as one.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Tensor], Tensor],
        optimizer: Optimizer,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        seconds: float | int | None = None,
        scheduler: Scheduler | None = None,
        callbacks: Sequence[Callback] = (),
        evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        folder: RunFolder | Stage | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.allowance = Allowance(epochs=epochs, steps=steps, seconds=seconds)
        self.schedule = Schedule(optimizer, scheduler)
        self.model, self.criterion, self.optimizer, self.loader = model, criterion, optimizer, loader
        self.callbacks, self.evaluate, self.folder, self.seed = list(callbacks), evaluate, folder, seed

    def fit(
        self, *, precision: str | None = None, accumulate: int = 1, checkpoint_seconds: float | int = 30.0
    ) -> FitResult:
        """Train until the budget is used, from the checkpoint if there is one, and return what was done.

        ``precision`` is ``"no"``, ``"bf16"`` or ``"fp16"`` (``None``: as launched, else ``"no"``).
        ``accumulate`` batches make one step. Checkpoints come every ``checkpoint_seconds``, or less often
        where they would take more than 5 % of the time; one at the end, and one when interrupted.

        Raises:
            DivergedError: for NaN or infinity in loss or gradients, or gradients that stay zero.
            InterruptedRunError: after Ctrl-C or SIGTERM, when the step is done and saved; at once after two.
            FileRefusedError: if the checkpoint is damaged or of another model.
            UsageError: if it is of a training with another seed or other callbacks; if the loader is empty.
        """
        self.allowance.start()
        with contextlib.ExitStack() as stack:
            interruption = stack.enter_context(postponed_interrupts())
            stack.enter_context(randomness_kept())
            accelerator = accelerator_for(precision)
            stage = stage_for(self.folder, accelerator, stack)
            return _Fit(self, accelerator, stage, interruption).go(stack, accumulate, checkpoint_seconds)


class _Fit:
    """One call of fit."""

    def __init__(
        self, trainer: Trainer, accelerator: Accelerator, stage: Stage | None, interruption: Interruption
    ) -> None:
        self.trainer, self.accelerator, self.interruption = trainer, accelerator, interruption
        self.schedule, self.allowance, self.watch = trainer.schedule, trainer.allowance, Watch()
        self.stream = BatchStream(trainer.loader, seed=trainer.seed)
        self.ledger = Ledger(stage if accelerator.is_main_process else None)
        generator = torch.Generator().manual_seed(trainer.seed)
        self.run = TrainingRun(trainer.model, trainer.optimizer, generator, self.ledger.log)
        self.keeper = Keeper(stage, accelerator, self.run, self._parts(), identity={"seed": trainer.seed})

    def go(self, stack: contextlib.ExitStack, accumulate: int, checkpoint_seconds: float | int) -> FitResult:
        trainer, run, accelerator = self.trainer, self.run, self.accelerator
        self.accumulate, self.checkpoint_seconds = accumulate, checkpoint_seconds
        seed_everything(trainer.seed, rank=accelerator.process_index)
        run.model.to(accelerator.device).train()
        for callback in reversed(trainer.callbacks):
            stack.callback(callback.on_fit_end, run)
        self._tell("on_fit_start")
        self.model, self.optimizer = accelerator.prepare(
            run.model, run.optimizer, device_placement=[True, False]
        )
        stack.callback(unprepare, accelerator, run.model, self.model)
        self.layout = memory_format(run.model)
        self.show = stack.enter_context(progress_bar("training"))
        finished = self._resume()
        while not finished:
            self._epoch()
            finished = run.stopped_by is not None
        return FitResult(run.step, run.epoch, self.allowance.clock, str(run.stopped_by), self.ledger.history)

    def _epoch(self) -> None:
        run, batches = self.run, self.stream.batches(self.run.epoch)
        if not self.stream.position:
            self._tell("on_epoch_start")
        while not run.stopped_by and (window := list(itertools.islice(batches, self.accumulate))):
            self._step(window)
        if not self.stream.position and not run.stopped_by:
            raise UsageError("`loader` is empty: it gave no batch.")
        if not run.stopped_by or self.stream.position == len(self.stream):
            run.epoch += 1
        self._evaluate()
        self._check_limits()
        if run.stopped_by:
            self.keeper.save(self.allowance.clock, limits=self.allowance.limits)

    def _step(self, window: list[Batch]) -> None:
        run = self.run
        self.schedule.before_step(run.fraction)
        parts = [self._backward(batch, len(window), last=batch is window[-1]) for batch in window]
        (loss,) = mean_over_processes(self.accelerator, sum(parts))
        self.accelerator.unscale_gradients(self.optimizer)
        # Under fp16 gradients overflow now and then: the scaler skips that step and lowers its scale.
        norm = gradient_norm(run.optimizer) if self.accelerator.scaler is None else 1.0
        self.watch.check(loss, norm, step=run.step + 1, saved=self.keeper.summary)
        self._tell("on_gradients")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.after_step()
        run.step += 1
        self.ledger.add(loss)
        self._tell("on_step_end")
        if run.step % LOG_EVERY == 0:
            run.log(epoch=run.epoch, step=run.step, loss=loss, lr=self.schedule.learning_rate)
        self._settle(loss)

    def _backward(self, batch: Batch, parts: int, *, last: bool) -> float:
        """Add a batch's gradients; processes exchange them with the ``last`` of a step's ``parts``."""
        batch, weight = share(batch, self.accelerator.process_index, self.accelerator.num_processes)
        batch = placed_batch(batch, self.accelerator.device, self.layout)
        for callback in self.trainer.callbacks:
            batch = callback.on_batch(self.run, batch)
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
            outputs = self.model(batch.inputs)
            loss = self.trainer.criterion(outputs, batch.targets)
            for callback in self.trainer.callbacks:
                loss = callback.on_loss(self.run, outputs, batch, loss)
            loss = loss * (weight / parts)
            self.accelerator.backward(loss)
        return loss.item()

    def _settle(self, loss: float) -> None:
        """After a step, agree with the other processes on time and wishes; then stop, save or go on."""
        run, wishes = self.run, (self.run.stopped_by is not None, bool(self.interruption))
        stop, interrupted, clock = mean_over_processes(self.accelerator, *wishes, self.allowance.now())
        self.allowance.clock = clock
        if stop:
            run.stop("another process")
        self._check_limits()
        self.show(run.fraction, f"epoch {run.epoch}  step {run.step}  loss {loss:.4g}")
        if interrupted:
            self.keeper.save(clock)
            by = self.interruption.by or "another process"
            raise InterruptedRunError(f"Stopped by {by} after step {run.step}; {self.keeper.summary}.")
        if not run.stopped_by and self.keeper.due(clock, self.checkpoint_seconds):
            self.keeper.save(clock)

    def _evaluate(self) -> None:
        run, evaluate, begun = self.run, self.trainer.evaluate, time.monotonic()
        metrics: dict[str, Any] = {}
        if evaluate is not None:
            if self.accelerator.num_processes > 1:
                broadcast(list(run.model.buffers()))  # until here batch statistics are each process's own
            with flags_kept(run.model), torch.no_grad():
                metrics = to_plain(evaluate(run.model.eval()))
        self.ledger.evaluated(metrics, epoch=run.epoch, step=run.step, lr=self.schedule.learning_rate)
        if evaluate is not None:
            self._tell("on_evaluated", metrics)
        cost, now = time.monotonic() - begun, self.allowance.now()
        self.allowance.closing, self.allowance.clock = mean_over_processes(self.accelerator, cost, now)

    def _check_limits(self) -> None:
        run, stream = self.run, self.stream
        within = stream.position / len(stream) if stream.epoch == run.epoch and len(stream) else 0.0
        used = self.allowance.used(epochs=run.epoch + within, steps=run.step)
        run.fraction = min(max(used.values()), 1.0)
        for name in (name for name, part in used.items() if part >= 1):
            run.stop(name)

    def _resume(self) -> bool:
        """Go to where the checkpoint is, if there is one; return whether nothing is left to do."""
        run, state = self.run, self.keeper.find()
        if state is not None:
            run.load_state_dict(state["run"])
            if state["parts"]["loader"]["epoch"] == run.epoch:
                # Sets up what no checkpoint holds; what one holds is loaded after it.
                self._tell("on_epoch_start")
            self.keeper.restore(state)
        self.ledger.start()
        by_limit, limits = run.stopped_by in LIMITS, state["limits"] if state else None
        if limits is not None and not (by_limit and limits != self.allowance.limits):
            return True
        run.stopped_by = None if by_limit else run.stopped_by
        self._check_limits()
        return False

    def _parts(self) -> dict[str, Any]:
        parts = {"optimizer": self.run.optimizer, "loader": self.stream, "schedule": self.schedule}
        parts |= {"allowance": self.allowance, "ledger": self.ledger, "watch": self.watch}
        parts |= {"scaler": self.accelerator.scaler} if self.accelerator.scaler is not None else {}
        named = enumerate(self.trainer.callbacks, 1)
        return parts | {
            f"callback {number}, {type(callback).__name__}": callback for number, callback in named
        }

    def _tell(self, moment: str, *args: Any) -> None:
        for callback in self.trainer.callbacks:
            getattr(callback, moment)(self.run, *args)
