"""Put samples aside for validation and test, so that every class and group keeps its share."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

TEST_FRACTION = 0.25
VALIDATION_FRACTION = 0.15


def complete_parts(
    parts: Sequence[str], *, labels: Sequence[str], groups: Sequence[str], digests: Sequence[str], seed: int
) -> list[str]:
    """Return ``parts`` with a missing test (¼) or validation part (15 % of the rest) carved from train.

    Parts that are given stay as they are. Needs an image per class for train and for each part to be carved.
    """
    result, generator = list(parts), np.random.default_rng(seed)
    for part, fraction in (("test", TEST_FRACTION), ("validation", VALIDATION_FRACTION)):
        if part in parts:
            continue
        rows = [row for row, own in enumerate(result) if own == "train"]
        chosen = carve(
            [labels[row] for row in rows],
            [groups[row] for row in rows],
            [digests[row] for row in rows],
            fraction=fraction,
            generator=generator,
        )
        for position in chosen:
            result[rows[position]] = part
    return result


def carve(
    labels: Sequence[str],
    groups: Sequence[str],
    digests: Sequence[str],
    *,
    fraction: float,
    generator: np.random.Generator,
) -> list[int]:
    """Return the positions to put aside: of each class ``fraction``, rounded, but at least one and not all.

    Within a class, groups keep their shares. Copies of an image (same digest) stay on one side.
    """
    first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
    classes: dict[str, list[int]] = defaultdict(list)
    for position in sorted(first.values()):
        classes[labels[position]].append(position)
    chosen = {
        digests[position]
        for _, members in sorted(classes.items())
        for position in _every_nth(members, groups, fraction, generator)
    }
    return [position for position, digest in enumerate(digests) if digest in chosen]


def _every_nth(
    members: list[int], groups: Sequence[str], fraction: float, generator: np.random.Generator
) -> list[int]:
    """Of the members shuffled within groups and laid end to end, every n-th: groups keep their shares."""
    shuffled = sorted(generator.permutation(members).tolist(), key=lambda position: groups[position])
    count = min(max(round(len(members) * fraction), 1), len(members) - 1)
    places = (np.arange(count) + generator.random()) * len(members) / max(count, 1)
    return [shuffled[int(place)] for place in places]
