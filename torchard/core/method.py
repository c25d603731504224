"""The identity card a method module carries, and the catalogue read from those cards."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Shape = Literal["measure", "transform", "loss", "layer", "optimizer", "data", "learner", "tool"]
SHAPES: tuple[str, ...] = get_args(Shape)


@dataclass(frozen=True, slots=True)
class Method:
    """What a method is (``shapes``), where it was published, and what the paper claims of it."""

    shapes: tuple[Shape, ...]
    source: str
    claim: str


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One row of the catalogue: a method's card, with what its path and docstring already say."""

    package: str
    slug: str
    summary: str
    method: Method

    @property
    def path(self) -> str:
        """``package/slug``, as in ``make bench METHOD=...``; for a package that is one method, its slug."""
        return "/".join(filter(None, (self.package, self.slug)))

    @property
    def module(self) -> str:
        """The importable name, ``torchard.package.slug``."""
        return "torchard." + self.path.replace("/", ".")


def catalogue(root: Path | None = None) -> list[CatalogueEntry]:
    """Return every method under ``root`` (default: this installation), sorted by path.

    Files are parsed, never imported, so the catalogue costs milliseconds and needs no torch.

    Raises:
        ValueError: if a module's ``METHOD`` is not a literal ``Method(...)`` call or names an unknown shape.
    """
    root = root or Path(__file__).resolve().parent.parent
    entries = [entry for file in _module_files(root) if (entry := _read_card(file, root)) is not None]
    return sorted(entries, key=lambda entry: entry.path)


def _module_files(root: Path) -> Sequence[Path]:
    """``package/__init__.py``, ``package/slug.py`` and ``package/slug/__init__.py``: no deeper."""
    return [*root.glob("*/*.py"), *root.glob("*/*/__init__.py")]


def _read_card(file: Path, root: Path) -> CatalogueEntry | None:
    text = file.read_text(encoding="utf-8")
    if "METHOD = Method(" not in text:
        return None
    tree = ast.parse(text, filename=str(file))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and _assigns_method(node))
    call = next((node.value for node in assigned), None)
    if not isinstance(call, ast.Call):
        return None
    try:
        fields = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        method = Method(**fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"METHOD in {file} is not a literal card: {error}") from None
    unknown = set(method.shapes) - set(SHAPES)
    if unknown:
        raise ValueError(
            f"METHOD in {file} names unknown shapes {sorted(unknown)}; known: {', '.join(SHAPES)}"
        )
    package, slug = _place(file.relative_to(root))
    return CatalogueEntry(package, slug, (ast.get_docstring(tree) or "").split("\n")[0], method)


def _assigns_method(node: ast.Assign) -> bool:
    return any(getattr(target, "id", "") == "METHOD" for target in node.targets)


def _place(relative: Path) -> tuple[str, str]:
    """``select/logme.py`` and ``select/logme/__init__.py`` are both ``("select", "logme")``."""
    parts = relative.with_suffix("").parts
    return (parts[0], parts[1]) if parts[-1] != "__init__" or len(parts) == 3 else ("", parts[0])
