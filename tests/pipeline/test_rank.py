"""Which of the ranked models is tuned: the cheapest of the best that the time can train."""

import pytest

from torchard.core.errors import UsageError
from torchard.pipeline.rank import available, choose

ROWS = [
    {"model": "large", "macs": 900, "seconds_per_image": 0.1},
    {"model": "middling", "macs": 400, "seconds_per_image": 0.01},
    {"model": "small", "macs": 300, "seconds_per_image": 0.01},
]


def test_a_model_too_slow_for_the_time_is_passed_over():
    assert choose(ROWS, [], images=1000, seconds=300.0) == "middling"


def test_a_model_that_can_be_trained_on_smaller_images_is_not_passed_over_for_a_quicker_one():
    """Of tied models that all fit at half the size the cheapest is taken, whichever the clock favoured."""
    favoured = [{**row, "seconds_per_image": 0.011 if row["model"] == "small" else 0.01} for row in ROWS]
    assert choose(favoured, ["large", "middling", "small"], images=1000, seconds=100.0) == "small"


def test_with_time_enough_the_best_is_taken():
    assert choose(ROWS, [], images=1000, seconds=1e6) == "large"


def test_of_tied_models_the_cheapest_is_taken():
    assert choose(ROWS, ["large", "middling", "small"], images=1000, seconds=1e6) == "small"


def test_where_time_fits_none_the_quickest_is_taken():
    assert choose(ROWS, [], images=10**9, seconds=1.0) == "middling"


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UsageError, match="no_such"):
        available("no_such_*")
