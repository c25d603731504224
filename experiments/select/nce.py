"""NCE against fine-tuning: two hubs of networks, 6 seeds of 5 splits. About 12 minutes.

Expected: weighted Kendall τ of at least 0.3, the pick within 2 points of the best, a score in under a second.
"""

from experiments.select.scoring import judge


def main() -> None:
    """Measure, print the table and write ``results/nce.json``."""
    judge("nce", about=__doc__)


if __name__ == "__main__":
    main()
