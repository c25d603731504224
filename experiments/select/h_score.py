"""H-score, plain and shrunk, against fine-tuning: two hubs, 6 seeds of 5 splits. About 12 minutes.

Expected: weighted Kendall τ of at least 0.3, the pick within 2 points of the best, a score in under a second.
"""

from experiments.select.scoring import judge


def main() -> None:
    """Measure, print the table and write ``results/h_score.json``."""
    judge("h_score", about=__doc__)


if __name__ == "__main__":
    main()
