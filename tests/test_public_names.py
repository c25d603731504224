"""The public names are the recorded ones, so that gaining or losing one shows in a diff.

After a change that is meant: ``python tests/test_public_names.py --record``.
"""

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchard"
RECORD = Path(__file__).with_suffix(".json").with_name("public_names.json")


def rooms(package: Path = PACKAGE) -> list[str]:
    """Return what a user can import right below torchard: packages and modules, but for the command line."""
    folders = [file.parent.name for file in package.glob("*/__init__.py")]
    modules = [file.stem for file in package.glob("*.py")]
    return sorted({*folders, *modules} - {"cli", "__main__", "__init__"})


def public_names(room: str, package: Path = PACKAGE) -> list[str]:
    """Return the public names of a room as ``module.name``, from the syntax tree.

    A module's are what it defines without a leading underscore; a package's are what its ``__init__.py``
    hands on. Modules inside a package that is one method (``prune/depgraph/``) are its own affair.
    """
    if (package / f"{room}.py").exists():
        return sorted(_defined(package / f"{room}.py"))
    found = list(_handed_on(package / room / "__init__.py"))
    for file in (package / room).glob("*.py"):
        if not file.name.startswith("_"):
            found += [f"{file.stem}.{name}" for name in _defined(file)]
    for file in (package / room).glob("*/__init__.py"):
        found += [f"{file.parent.name}.{name}" for name in _handed_on(file)]
    return sorted(set(found))


def _defined(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_") and name != "METHOD"]


def _handed_on(file: Path) -> list[str]:
    names = _defined(file)
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("torchard")):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_") and name != "Method"]


def flags() -> list[str]:
    """Return every verb of the command line with its arguments and options: they are promises too."""
    import click

    from torchard.cli.app import application

    def walk(group: click.Group, prefix: str) -> list[str]:
        context = click.Context(group)
        lines = []
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                lines += walk(command, f"{prefix}{name} ")
            else:
                lines.append(f"{prefix}{name} " + " ".join(_spelled(param) for param in command.params))
        return lines

    def _spelled(param: click.Parameter) -> str:
        return "/".join(param.opts + param.secondary_opts)

    return walk(application(), "")


def names_now() -> dict[str, list[str]]:
    """Return all that the record holds, as it is now."""
    return {**{room: public_names(room) for room in rooms()}, "command line": flags()}


RECORDED: dict[str, list[str]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}


@pytest.mark.parametrize("room", rooms())
def test_public_names_are_the_recorded_ones(room):
    now, recorded = set(public_names(room)), set(RECORDED.get(room, []))
    assert sorted(now - recorded) == [], "new: if meant, python tests/test_public_names.py --record"
    assert sorted(recorded - now) == [], "gone: if meant, python tests/test_public_names.py --record"


def test_verbs_and_flags_are_the_recorded_ones():
    assert flags() == RECORDED.get("command line")


def test_no_room_is_recorded_that_is_not_there():
    assert set(RECORDED) == {*rooms(), "command line"}


def test_names_are_found_as_described(tmp_path):
    files = {
        "solo.py": "X = 1\n_y: int = 2\nclass C: ...\ndef _f(): ...\n",
        "tune/__init__.py": "from torchard.tune.ssf import ScaleShift\nfrom torch import nn\n",
        "tune/ssf.py": "import torch\nMETHOD = 1\nTargets: type = int\ndef attach(): ...\n",
        "tune/_inner.py": "def hidden(): ...\n",
        "tune/deep/__init__.py": "from torchard.tune.deep.a import plan\n__all__ = ['plan']\n",
        "tune/deep/a.py": "def plan(): ...\ndef inner(): ...\n",
        "cli/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert rooms(tmp_path) == ["solo", "tune"]
    assert public_names("solo", tmp_path) == ["C", "X"]
    assert public_names("tune", tmp_path) == ["ScaleShift", "deep.plan", "ssf.Targets", "ssf.attach"]


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: python tests/test_public_names.py --record")
    RECORD.write_text(json.dumps(names_now(), indent=1) + "\n")
    print(f"recorded {sum(map(len, names_now().values()))} names in {RECORD}")
