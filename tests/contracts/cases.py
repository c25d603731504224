"""What a method offers to the contract of each of its shapes, and how the contracts find it.

A method's test module (``tests/<package>/test_<slug>.py``, or ``tests/<package>/<slug>/contract.py`` where
the method is a package) defines::

    def contract_case() -> MeasureCase:
        features, targets = ...
        return MeasureCase(logme, features, targets)

A method of several shapes returns a tuple of cases, one a shape. To give a shape its first contract: add its
case class here and to ``CASES``, and write ``tests/contracts/test_<shape>.py`` after one of its neighbours.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.conftest import ROOT
from torchard.core.method import CatalogueEntry, catalogue


@dataclass(frozen=True)
class MeasureCase:
    """A function of features and targets, with data on which it is defined (features: float32, n by d)."""

    measure: Callable[[Tensor, Tensor], float]
    features: Tensor
    targets: Tensor


@dataclass(frozen=True)
class TransformCase:
    """A change of a model: how to make the model, change it, change it back, and keep the change in files.

    ``build`` gives an equal model each time; ``apply`` may work in place and returns the model; ``undo`` is
    None where the method has no inverse; ``load`` brings what ``save`` wrote to a model fresh from ``build``.
    """

    build: Callable[[], nn.Module]
    inputs: Tensor
    apply: Callable[[nn.Module], nn.Module]
    save: Callable[[nn.Module, Path], Any]
    load: Callable[[nn.Module, Path], nn.Module]
    undo: Callable[[nn.Module], nn.Module] | None = None


@dataclass(frozen=True)
class ToolCase:
    """Something a person runs to look: ``run`` does it once and returns what is shown."""

    run: Callable[[], str]


@dataclass(frozen=True)
class LossCase:
    """A scalar to minimise as a function of one batch of predictions or features (float64, batch first)."""

    loss: Callable[[Tensor], Tensor]
    inputs: Tensor


CASES: Mapping[str, type] = {
    "measure": MeasureCase,
    "transform": TransformCase,
    "loss": LossCase,
    "tool": ToolCase,
}


def entries(shape: str) -> list[CatalogueEntry]:
    """Return every method of ``shape`` in the catalogue: none is left out by name."""
    return [entry for entry in catalogue() if shape in entry.method.shapes]


def case(entry: CatalogueEntry, shape: str) -> Any:
    """Return the case that ``entry`` offers for ``shape``.

    Raises:
        LookupError: if its test module offers none, with what to write.
    """
    name = case_module(entry)
    found = [one for one in _offered(name) if isinstance(one, CASES[shape])]
    if len(found) != 1:
        raise LookupError(
            f"{entry.path} says it is a {shape}, but {name} offers {len(found)} cases for it: "
            f"define contract_case() there, returning a {CASES[shape].__name__}, see tests/contracts/cases.py"
        )
    return found[0]


def case_module(entry: CatalogueEntry, tests: Path = ROOT / "tests") -> str:
    """Return the name of the test module in which ``entry`` must offer its case."""
    folder = tests / entry.path
    if folder.is_dir():
        return ".".join(["tests", *entry.path.split("/"), "contract"])
    return ".".join(["tests", *filter(None, [entry.package]), f"test_{entry.slug}"])


def _offered(name: str) -> tuple[Any, ...]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        return ()
    offered = module.contract_case() if hasattr(module, "contract_case") else ()
    return offered if isinstance(offered, tuple) else (offered,)
