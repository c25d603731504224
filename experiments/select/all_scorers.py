"""Every scorer against the same fine-tuning, in one run: two hubs, 6 seeds of 5 splits. About 16 minutes.

Writes the results of all scorers' experiments but LogME's, which measures more. Expected: weighted Kendall τ
of at least 0.3 (linear probe 0.5), every pick within 2 points of the best, every score in under a second.
"""

from pathlib import Path

from experiments.select.scoring import options, run_trials, write
from torchard.select.scorers import scorers

TOGETHER = ("logme", "shrunk_h_score")  # stand in others' tables and have none of their own here


def main() -> None:
    """Measure once, print every table and write every ``results/<scorer>.json``."""
    given = options(__doc__, "results").parse_args()
    names = list(scorers())
    trials = run_trials(names, given)
    for name in names:
        if name not in TOGETHER:
            write(name, trials, str(Path(given.results) / f"{name}.json"))


if __name__ == "__main__":
    main()
