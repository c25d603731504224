"""Run CPython's own tests of some modules with their functions replaced by recompiled twins.

In a process of its own: python -m experiments.compiler.twins STRATEGY MODULE...; prints a JSON object with
the tests run and the failures by name. STRATEGY "none" replaces nothing: the baseline.
"""

import importlib
import io
import json
import sys
import types
import unittest
from collections.abc import Iterator
from typing import Any

from torchard.compiler.decompile import decompile_code, recompile

TESTS = {"asyncio.base_events": "test.test_asyncio.test_base_events"}


def functions(module: Any) -> Iterator[types.FunctionType]:
    """Yield every Python function defined in ``module`` or its classes, once."""
    seen: set[int] = set()
    todo = list(vars(module).values())
    while todo:
        value = todo.pop()
        value = getattr(value, "__func__", value)
        if isinstance(value, property):
            todo += [value.fget, value.fset, value.fdel]
        elif isinstance(value, type) and value.__module__ == module.__name__ and id(value) not in seen:
            seen.add(id(value))
            todo += list(vars(value).values())
        elif (
            isinstance(value, types.FunctionType)
            and value.__module__ == module.__name__
            and id(value) not in seen
        ):
            seen.add(id(value))
            yield value


def swap(name: str, strategy: str) -> tuple[int, int]:
    """Replace the code of the module's functions; return how many were replaced, of how many."""
    replaced = total = 0
    for function in list(functions(importlib.import_module(name))):
        total += 1
        code = function.__code__
        try:
            found = decompile_code(code, strategy=strategy)
            # some tests read the lines of a traceback: twins stand where the originals do
            twin = recompile(found.source, code, filename=code.co_filename, lines=found.line_map)
        except ValueError:
            continue
        function.__code__ = twin
        replaced += 1
    return replaced, total


def run(name: str) -> dict[str, Any]:
    """Run the tests of a module; return how many ran and which failed."""
    suite = unittest.defaultTestLoader.loadTestsFromName(TESTS.get(name, f"test.test_{name}"))
    result = unittest.TextTestRunner(stream=io.StringIO(), verbosity=0).run(suite)
    return {
        "run": result.testsRun,
        "failed": sorted(str(case) for case, _ in result.failures + result.errors),
    }


def main(strategy: str, names: list[str]) -> None:
    told: dict[str, Any] = {}
    for name in names:
        replaced, total = (0, 0) if strategy == "none" else swap(name, strategy)
        told[name] = {"replaced": replaced, "functions": total, **run(name)}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
