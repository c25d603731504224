"""The fallback."""

import ast
from typing import Any

from torchard.compiler.decompile.slots import Unstructured


def statements(scope: Any) -> "list[ast.stmt]":
    raise Unstructured("not there yet")
