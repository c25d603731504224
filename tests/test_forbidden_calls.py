"""Nothing in the package can run what a file holds: no unpickling, no eval, no shell, no open port.

Read from the syntax tree, so that prose about pickle trips nothing and an alias hides nothing.
"""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "yaml", "joblib"}
BUILTINS = {"eval", "exec"}
METHODS = {"extractall"}
CALLS = {"torch.load", "os.system", "os.popen", "numpy.load(allow_pickle)"}
FLAGS = {"shell", "allow_pickle"}
EVERY_INTERFACE = "0.0.0.0"

# What may be where, and why. Keep it short.
ALLOWED = {
    ("torchard/hub/packaged.py", "torch.load"): "weights_only, on a file whose SHA-256 we know",
    ("torchard/select/workers.py", "pickle"): "between processes that we started ourselves, never a file",
}


def forbidden(source: str) -> list[tuple[int, str]]:
    """Return (line, what) for everything in ``source`` that must not be there."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    names = _imported_names(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, module) for module in _modules(node) if module.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _in_call(node, names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found += [(node.lineno, EVERY_INTERFACE)] if EVERY_INTERFACE in node.value else []
    return sorted(found)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``{"t": "torch", "load": "torch.load"}``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _in_call(node: ast.Call, names: dict[str, str]) -> list[str]:
    dotted = ast.unparse(node.func)
    head, _, rest = dotted.partition(".")
    full = ".".join(filter(None, (names.get(head, head), rest)))
    found = [name for name in (full.removeprefix("builtins."),) if name in CALLS | BUILTINS]
    found += [name for name in (dotted.rpartition(".")[2],) if name in METHODS]
    found += [f"{word.arg}=True" for word in node.keywords if word.arg in FLAGS and _true(word.value)]
    if full in ("__import__", "importlib.import_module") and node.args:
        found += [name for name in MODULES if ast.unparse(node.args[0]).strip("'\"").split(".")[0] == name]
    return found


def _true(node: ast.expr) -> bool:
    return not (isinstance(node, ast.Constant) and not node.value)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import yaml as y",
        "def f():\n    import dill",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('pickle')",
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x')",
        "eval('1')",
        "import builtins\nbuiltins.exec('1')",
        "archive.extractall('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "run('x', shell=flag)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import os\nos.system('x')",
        "serve(host='0.0.0.0')",
    ],
)
def test_the_search_finds(source):
    assert forbidden(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Never pickle, eval( or 0.0.0.0."""',
        "model.eval()",
        "np.load('x', allow_pickle=False)",
        "run(['x'], shell=False)",
        "import json\njson.load(file)",
        "from torchard.core.checkpoint import load\nload('x')",
    ],
)
def test_the_search_lets_be(source):
    assert not forbidden(source)


def test_the_package_holds_none_of_it():
    found = {}
    for file in sorted((ROOT / "torchard").rglob("*.py")):
        name = str(file.relative_to(ROOT))
        for line, what in forbidden(Path(file).read_text(encoding="utf-8")):
            found[name, what] = f"{name}:{line} {what}"
    assert [text for key, text in found.items() if key not in ALLOWED] == []
    assert [key for key in ALLOWED if key not in found] == [], "allowed, but no longer there: remove the line"
