"""Photographs of solar cells, sound or defective: the data set of the demo.

2,624 electroluminescence images of 300×300 pixels from PyPI's ``elpv-dataset`` (Buerhop et al. 2018; Deitsch
et al. 2019 and 2021), with the experts' probability of a defect, 0, ⅓, ⅔ or 1, and the kind of cell.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split

from torchard.core.data.listing import Listing, make_task
from torchard.core.data.split import FileImages
from torchard.core.data.task import Metric, Task
from torchard.core.errors import DataError, MissingExtraError, UsageError
from torchard.core.files import one_line

CLASSES = ("functional", "defective")
CELLS = ("mono", "poly")
TEST_FRACTION = 0.25
VALIDATION_FRACTION = 0.15


def load_elpv(cells: str = "", *, seed: int = 0, metric: Metric | None = None) -> Task:
    """Return the task "is this cell defective?", where a probability of ½ or more means yes.

    A quarter is for testing, 15 % of the rest for validation, both stratified by probability and kind of
    cell. ``cells`` is ``"mono"``, ``"poly"`` or empty for both; a kind's splits are its cells in the splits
    of both. The probabilities become ``soft_targets``, the kinds ``groups``. Reads 100 MB once, for the
    fingerprint.

    Raises:
        MissingExtraError: if the package ``elpv-dataset`` is not installed.
        UsageError: for another kind of cell.
    """
    if cells not in ("", *CELLS):
        raise UsageError(f"`elpv:{cells}` is unknown; choose elpv, elpv:mono or elpv:poly")
    root = _data_folder()
    rows = _read_labels(root / "labels.csv")
    parts = _split([f"{probability:.2f} {kind}" for _, probability, kind in rows], seed)
    chosen = [index for index, row in enumerate(rows) if cells in ("", row[2])]
    return make_task(
        _listing(root, [rows[index] for index in chosen]),
        [parts[index] for index in chosen],
        name="elpv",
        spec=f"elpv:{cells}" if cells else "elpv",
        classes=CLASSES,
        metric=metric or "accuracy",
        orientation_free=True,
    )


def _data_folder() -> Path:
    # Found, not imported: the package's own reader loads every picture at once.
    found = find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            "the data set elpv needs the package elpv-dataset: pip install 'torchard[demo]'"
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _read_labels(file: Path) -> list[tuple[str, float, str]]:
    """Rows of (image path, probability, kind), whitespace between them."""
    try:
        cells = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        return [(path, round(float(probability) * 3) / 3, kind) for path, probability, kind in cells]
    except (OSError, ValueError) as error:
        raise _damaged(file, one_line(error)) from None


def _split(strata: Sequence[str], seed: int) -> list[str]:
    everything = list(range(len(strata)))
    rest, test = train_test_split(everything, test_size=TEST_FRACTION, stratify=strata, random_state=seed)
    _, validation = train_test_split(
        rest, test_size=VALIDATION_FRACTION, stratify=[strata[index] for index in rest], random_state=seed
    )
    named = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
    return [named.get(index, "train") for index in everything]


def _listing(root: Path, rows: Sequence[tuple[str, float, str]]) -> Listing:
    paths = [root / path for path, _, _ in rows]
    probabilities = torch.tensor([probability for _, probability, _ in rows])
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, paths))
    return Listing(
        images=FileImages(paths),
        names=[path for path, _, _ in rows],
        labels=[CLASSES[probability >= 0.5] for _, probability, _ in rows],
        digests=digests,
        sizes=[(300, 300)] * len(rows),
        groups=[kind for _, _, kind in rows],
        paths=paths,
        soft_targets=torch.stack([1 - probabilities, probabilities], dim=1),
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _damaged(path, error.strerror or "") from None


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read ({reason}); run: pip install --force-reinstall elpv-dataset")
