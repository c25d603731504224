"""Find the verbs of the command line by looking at the files, without importing them."""

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: what to type, where it lives, its first docstring line, and whether it holds verbs itself."""

    name: str
    module: str
    summary: str
    folder: Path | None = None


def verbs(folder: Path, package: str) -> dict[str, Verb]:
    """Return the verbs below ``folder``, by name.

    A file is a verb if it defines a function ``command``; a sub-package is a group of verbs. A trailing
    underscore is dropped (``list_.py`` is ``list``) and the others become dashes. Files are parsed only:
    the whole list costs a few milliseconds.
    """
    found = [_file_verb(file, package) for file in sorted(folder.glob("*.py"))]
    found += [_group(file.parent, package) for file in sorted(folder.glob("*/__init__.py"))]
    return {verb.name: verb for verb in sorted(filter(None, found), key=lambda verb: verb.name)}


def _file_verb(file: Path, package: str) -> Verb | None:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "command" for node in tree.body):
        return None
    return Verb(_typed_name(file.stem), f"{package}.{file.stem}", _first_line(tree))


def _group(folder: Path, package: str) -> Verb:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    return Verb(_typed_name(folder.name), f"{package}.{folder.name}", _first_line(tree), folder)


def _typed_name(stem: str) -> str:
    return stem.rstrip("_").replace("_", "-")


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").split("\n", maxsplit=1)[0]
