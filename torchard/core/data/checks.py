"""What a data set must have before anything is trained on it, and what its user should be told."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from torchard.core.errors import DataError
from torchard.core.files import quote

MAX_BAD_FRACTION = 0.2
NAMED = 10  # how many names a message lists


def check_exclusions(
    excluded: Sequence[tuple[str, str]], before: Mapping[str, int], after: Mapping[str, int], *, strict: bool
) -> list[str]:
    """Return a note on the images left out, by reason; ``before`` and ``after`` count images per class.

    Raises:
        DataError: if more than a fifth cannot be used, a class lost all, or ``strict`` and there is any.
    """
    if not excluded:
        return []
    total = sum(before.values())
    told = f"{len(excluded)} of {total} images cannot be used: {_by_reason(excluded)}"
    if strict:
        raise DataError(f"{told}. Mend or remove them, or leave out --strict to train without them.")
    if len(excluded) > MAX_BAD_FRACTION * total:
        raise DataError(f"{told}. More than {MAX_BAD_FRACTION:.0%} is too many to go on.")
    emptied = sorted(label for label in before if not after.get(label))
    if emptied:
        raise DataError(f"{told}. Nothing is left of class {_names(emptied)}.")
    return [f"{told}. They are left out."]


def check_class_names(classes: Sequence[str]) -> None:
    """Raise DataError if two class names differ in case or in Unicode form only."""
    same: dict[str, list[str]] = defaultdict(list)
    for label in classes:
        same[unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())].append(label)
    for labels in same.values():
        if len(labels) > 1:
            listed = " and ".join(f"{quote(label)} ({label!a})" for label in labels)
            raise DataError(f"class names {listed} differ in case or Unicode form only; rename or merge them")


def check_counts(parts: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse what cannot be learnt: no images, one class, a class too small or missing from a given part.

    Raises:
        DataError: with the counts and the minimum.
    """
    counts = Counter(labels)
    if not counts:
        raise DataError("there are no images; give at least two classes of three images each")
    if len(counts) == 1:
        raise DataError(f"only one class, {_counts(counts)}: nothing to tell apart; give at least two")
    given = [part for part in ("train", "validation", "test") if part in parts]
    by_part = {part: Counter(_labels_of(part, parts, labels)) for part in given}
    if "train" not in by_part:
        raise DataError(f"no image is in train, only in {', '.join(given)}")
    for part in given:
        missing = sorted(set(counts) - set(by_part[part]))
        if missing:
            raise DataError(f"class {_names(missing)} has images elsewhere but none in {part}")
    needed = 4 - len(given)
    small = {label: count for label, count in by_part["train"].items() if count < needed}
    if small:
        each = "one each for " + ", ".join(["train", *(p for p in ("validation", "test") if p not in given)])
        raise DataError(
            f"too few images in train: {_counts(small)}; at least {needed} per class are needed, {each}"
        )


def check_copies(
    digests: Sequence[str],
    names: Sequence[str],
    labels: Sequence[str],
    parts: Sequence[str],
    *,
    strict: bool,
) -> list[str]:
    """Return notes on identical files in several classes or several splits.

    Raises:
        DataError: if ``strict`` and there are any.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        copies[digest].append(row)
    repeated = [rows for rows in copies.values() if len(rows) > 1]
    found = [
        (what, [rows for rows in repeated if len({column[row] for row in rows}) > 1])
        for what, column in (("classes", labels), ("splits", parts))
    ]
    told = [
        f"Images that occur in several {what}: {len(sets)}, "
        + _listed([" = ".join(quote(names[row]) for row in rows[:3]) for rows in sets])
        for what, sets in found
        if sets
    ]
    if strict and told:
        raise DataError(f"{told[0]}. Remove the copies, or leave out --strict to train with them.")
    return [f"{text}." for text in told]


def _labels_of(part: str, parts: Sequence[str], labels: Sequence[str]) -> list[str]:
    return [label for own, label in zip(parts, labels, strict=True) if own == part]


def _by_reason(excluded: Sequence[tuple[str, str]]) -> str:
    reasons = Counter(reason for _, reason in excluded)
    return f"{_counts(reasons, plain=True)} ({_names([name for name, _ in excluded])})"


def _counts(counts: Mapping[str, int], *, plain: bool = False) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if plain:
        return _listed([f"{count} {name}" for name, count in ordered])
    return _listed([f"{quote(name)} {count}" for name, count in ordered])


def _names(names: Sequence[str]) -> str:
    return _listed([quote(name) for name in names])


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
