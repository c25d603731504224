"""Compare ways of doing one thing: the same seeds and equally many trials for each, chosen on validation.

::

    ARMS = {"linear": linear_probe, "full": full_fine_tuning, "ssf": ssf_tuning}
    SETTINGS = {"linear": grid(lr=[1e-2, 1e-3]), "full": grid(lr=[1e-3, 1e-4]), "ssf": grid(lr=[1e-2, 5e-3])}


    def main() -> None:
        found = compare(ARMS, load_task("digits"), seeds=range(3), settings=SETTINGS)
        found.save("results/ssf.json", claim="Within half a point of full fine-tuning.")
"""

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import record
from torchard.cli.console import Column, progress

Settings = Mapping[str, Any]
Arm = Callable[..., Mapping[str, float]]
ONE_TRIAL: Sequence[Settings] = ({},)


def compare(
    arms: Mapping[str, Any],  # Arm, but mypy joins functions of unlike signatures to something uncallable
    subject: Any,
    *,
    seeds: Sequence[int],
    select_on: str = "validation",
    lower_is_better: bool = False,
    settings: Mapping[str, Sequence[Settings]] | None = None,
) -> "Comparison":
    """Run every arm once per seed and setting, and keep for each seed the setting best on ``select_on``.

    An arm is called as ``arm(subject, seed=seed, **setting)`` and returns figures by name, the same names in
    every arm, ``select_on`` among them where there is something to choose. The global generators are seeded
    before each call. A trial with a figure that is NaN or infinite has lost. Seconds are those of the kept
    trial.

    Raises:
        ValueError: if arms have unequally many settings or unequal figures, if there is no ``select_on`` to
            choose by, or if all trials of an arm were lost.
    """
    grids = {name: list((settings or {}).get(name, ONE_TRIAL)) for name in arms}
    _check_equal_trials(grids, settings)
    runs = [
        _best_run(name, arm, subject, seed, grids[name], select_on, lower_is_better)
        for seed, (name, arm) in itertools.product(seeds, arms.items())
    ]
    _check_equal_figures(runs)
    return Comparison(tuple(runs), select_on=select_on, trials=len(next(iter(grids.values()))))


def grid(**values: Sequence[Any]) -> list[Settings]:
    """Return every combination of ``values`` as keyword arguments."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


@dataclass(frozen=True)
class Run:
    """One arm on one seed, with the setting that was best on validation."""

    arm: str
    seed: int
    setting: Settings
    figures: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What every arm reached on every seed."""

    runs: tuple[Run, ...]
    select_on: str
    trials: int

    def values(self, arm: str, figure: str) -> list[float]:
        """Return one figure of one arm, seed by seed."""
        return [run.figures[figure] for run in self.runs if run.arm == arm]

    def paired(self, arm: str, other: str, figure: str) -> tuple[float, float]:
        """Return mean and standard deviation of ``arm`` minus ``other``, seed by seed."""
        differences = np.subtract(self.values(arm, figure), self.values(other, figure)).tolist()
        return statistics.fmean(differences), _spread(differences)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an arm: mean and standard deviation of every figure and of the seconds."""
        return [self._row(arm) for arm in dict.fromkeys(run.arm for run in self.runs)]

    def save(
        self,
        path: str | Path,
        *,
        claim: str,
        verdict: str = "",
        paper: Mapping[str, float] | None = None,
        digits: int = 3,
    ) -> Path:
        """Print the table and write it with every seed's values to ``path`` (below the repository).

        ``paper`` holds the published figure of each arm that has one; it gets a column of its own.
        """
        rows = [{**row, "paper": (paper or {}).get(row["arm"])} for row in self.rows()]
        columns = [Column("arm")]
        columns += [Column(name, digits=digits, spread=f"{name} sd") for name in self.runs[0].figures]
        columns += [Column("paper", digits=digits)] if paper else []
        columns += [Column("seconds", digits=1, spread="seconds sd")]
        details = {
            "seeds": sorted({run.seed for run in self.runs}),
            "select_on": self.select_on,
            "trials per arm and seed": self.trials,
            "runs": [asdict(run) for run in self.runs],
        }
        return record.save(path, rows, columns, claim=claim, verdict=verdict, details=details)

    def _row(self, arm: str) -> dict[str, Any]:
        runs = [run for run in self.runs if run.arm == arm]
        row: dict[str, Any] = {"arm": arm}
        for name in runs[0].figures:
            row |= _mean_and_spread(name, self.values(arm, name))
        return row | _mean_and_spread("seconds", [run.seconds for run in runs])


def _best_run(
    name: str,
    arm: Arm,
    subject: Any,
    seed: int,
    settings: Sequence[Settings],
    select_on: str,
    lower_is_better: bool,
) -> Run:
    tried = [_trial(name, arm, subject, seed, setting) for setting in settings]
    trials = [trial for trial in tried if all(map(math.isfinite, trial.figures.values()))]
    if not trials:
        raise ValueError(f"arm {name!r} gave no finite figures on seed {seed}: {dict(tried[-1].figures)}")
    if len(tried) == 1:
        return trials[0]
    missing = [trial for trial in trials if select_on not in trial.figures]
    if missing:
        raise ValueError(f"arm {name!r} returned {sorted(missing[0].figures)}, not `select_on={select_on!r}`")
    return (min if lower_is_better else max)(trials, key=lambda trial: trial.figures[select_on])


def _trial(name: str, arm: Arm, subject: Any, seed: int, setting: Settings) -> Run:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from it)
    torch.manual_seed(seed)
    start = time.perf_counter()
    figures = {key: float(value) for key, value in arm(subject, seed=seed, **setting).items()}
    run = Run(name, seed, dict(setting), figures, time.perf_counter() - start)
    shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
    progress().print(f"{name}  seed {seed}  {dict(setting) or ''}  {shown}  ({run.seconds:.1f} s)")
    return run


def _check_equal_trials(
    grids: Mapping[str, Sequence[Settings]], settings: Mapping[str, Sequence[Settings]] | None
) -> None:
    unknown = sorted(set(settings or {}) - set(grids))
    if unknown:
        raise ValueError(f"`settings` name no arm: {', '.join(unknown)}; there are: {', '.join(grids)}")
    counts = {name: len(grid) for name, grid in grids.items()}
    if not counts or len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"every arm needs the same number of trials, given: {counts}")


def _check_equal_figures(runs: Sequence[Run]) -> None:
    if not runs:
        raise ValueError("`seeds` is empty: nothing to compare")
    odd = [run for run in runs if run.figures.keys() != runs[0].figures.keys()]
    if odd:
        raise ValueError(
            f"arm {odd[0].arm!r} returned {list(odd[0].figures)}, arm {runs[0].arm!r} "
            f"{list(runs[0].figures)}: all arms must return the same figures"
        )


def _mean_and_spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {name: statistics.fmean(values), f"{name} sd": _spread(values) if len(values) > 1 else None}


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
