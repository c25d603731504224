"""Numbers as people read them: three figures, a unit, a dash for what is not known.

Every function takes ``None`` for an unknown value and never raises on a finite number.
"""

DASH = "–"
_NARROW = "\N{NARROW NO-BREAK SPACE}"
_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
}


def percent(value: int | float | None, digits: int = 1) -> str:
    """``0.8812`` → ``88.1 %``."""
    return DASH if value is None else f"{100 * value:.{digits}f}{_NARROW}%"


def count(value: int | float | None) -> str:
    """``656`` → ``656``, ``13400`` → ``13,400``."""
    return DASH if value is None else f"{value:,.0f}"


def amount(value: int | float | None, unit: str = "") -> str:
    """``1310000`` → ``1.31 M``; with a unit, ``1.31 MB``."""
    if value is None:
        return DASH
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)}{_NARROW}{prefix}{unit}"
    return f"{_three(value)}{_NARROW}{unit}".rstrip(_NARROW)


def milliseconds(value: int | float | None) -> str:
    """``4.62`` → ``4.62 ms``."""
    return DASH if value is None else f"{_three(value)}{_NARROW}ms"


def small(value: int | float | None) -> str:
    """``2.1e-05`` → ``2.1 · 10⁻⁵``."""
    if not value:
        return DASH if value is None else "0"
    figures, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{figures}{_NARROW}·{_NARROW}10{raised}"


def duration(seconds: int | float | None) -> str:
    """``311`` → ``5 min 11 s``; below ten seconds one decimal is kept."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f}{_NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{value}{_NARROW}{unit}" for value, unit in parts if value) or f"0{_NARROW}s"


def metric_name(key: str) -> str:
    """``balanced_accuracy`` → ``Balanced accuracy``."""
    return _METRICS.get(key, key.replace("_", " "))


def metric_value(key: str, value: int | float | None) -> str:
    """Accuracies as percentages; areas and F1, which are not shares of images, as numbers."""
    if value is None:
        return DASH
    return percent(value) if key.endswith("accuracy") else f"{value:.3f}"


def change(before: int | float | None, after: int | float | None) -> str:
    """What became of a cost: ``−62 %``, ``+4 %``; a dash where either is unknown."""
    if before is None or after is None or before <= 0:
        return DASH
    share = round(100 * (after / before - 1))
    return f"{'+' if share > 0 else '−' if share < 0 else '±'}{abs(share)}{_NARROW}%"


def points(before: int | float | None, after: int | float | None) -> str:
    """What became of a share: ``−0.5 points``."""
    if before is None or after is None:
        return DASH
    step = round(100 * (after - before), 1)
    return f"{'+' if step > 0 else '−' if step < 0 else '±'}{abs(step):.1f} points"


def _three(value: int | float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}"
