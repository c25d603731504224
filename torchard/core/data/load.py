"""One door to all data sets."""

from difflib import get_close_matches
from pathlib import Path

from torchard.core.data.task import Metric, Task, checked_metric
from torchard.core.errors import UsageError
from torchard.core.files import quote

BUILT_IN = ("elpv", "elpv:mono", "elpv:poly", "digits", "mnist", "mnist:full")


def load_task(
    spec: str,
    *,
    seed: int = 0,
    root: Path | None = None,
    strict: bool = False,
    metric: str | None = None,
    cache: Path | None = None,
) -> Task:
    """Return the task that ``spec`` names, split by ``seed``.

    ``spec`` is a built-in name (elpv, elpv:mono, elpv:poly, digits, mnist, mnist:full), ``hf:owner/name``, a
    folder with one folder per class, or a .csv file; write ``./elpv`` for a folder of that name. ``root`` is
    the folder a CSV's paths start from, or where mnist:full and hf sets are kept. ``strict`` refuses what
    else is left out with a note: unreadable images, and copies in several classes or splits. ``metric`` is
    what models are chosen by. In a ``cache`` folder, what the scan saw of each file is kept for the next
    time.

    Raises:
        UsageError: if there is nothing of that name, it cannot be read, or an option does not apply.
        DataError: if nothing can be learnt from it, naming what is wrong.
        MissingExtraError: if it needs a package that is not installed.
    """
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"`seed={seed}` must be from 0 to 4294967295")
    chosen = None if metric is None else checked_metric(metric)
    name, _, variant = spec.partition(":")
    if root is not None and not (name == "hf" or spec == "mnist:full" or _is_table(spec)):
        raise UsageError(
            f"`root={quote(root)}` does not apply to {quote(spec)}; it is for CSV, hf: and mnist:full"
        )
    if name in ("elpv", "digits", "mnist"):
        return _load_built_in(name, variant, root=root, seed=seed, metric=chosen)
    if name == "hf":
        from torchard.core.data.huggingface import load_huggingface

        return load_huggingface(variant, root=root, seed=seed, strict=strict, metric=chosen)
    if "://" in spec:
        raise UsageError(f"{quote(spec)} is a URL; download it, and give the file or folder.")
    if not spec or not _exists(Path(spec)):
        raise UsageError(
            f"{quote(spec)} does not exist: no folder, CSV file or built-in data set.{_hint(spec)}"
        )
    if _is_table(spec):
        from torchard.core.data.table import load_table

        return load_table(Path(spec), root=root, seed=seed, strict=strict, metric=chosen, cache=cache)
    from torchard.core.data.folder import load_folder

    return load_folder(Path(spec), seed=seed, strict=strict, metric=chosen, cache=cache)


def _load_built_in(name: str, variant: str, *, root: Path | None, seed: int, metric: Metric | None) -> Task:
    # Imported here, so that a folder of images does not wait for scikit-learn's data sets.
    if name == "elpv":
        from torchard.core.data.elpv import load_elpv

        return load_elpv(variant, seed=seed, metric=metric)
    if name == "mnist":
        from torchard.core.data.mnist import load_mnist

        return load_mnist(variant, root=root, seed=seed, metric=metric)
    from torchard.core.data.digits import load_digits

    if variant:
        raise UsageError(f"`digits:{variant}` is unknown; digits has no variants")
    return load_digits(seed=seed, metric=metric)


def _is_table(spec: str) -> bool:
    return Path(spec).suffix.lower() == ".csv" and not Path(spec).is_dir()


def _exists(path: Path) -> bool:
    """Whether anything is there; a name too long for the system, or with a zero byte, is not."""
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return False


def _hint(spec: str) -> str:
    near = get_close_matches(spec, BUILT_IN, n=1)
    return f" Did you mean {near[0]}?" if near else f" Built in: {', '.join(BUILT_IN)}."
