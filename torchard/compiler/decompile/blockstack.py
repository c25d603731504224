"""Exception handlers of Python 3.9 and 3.10, which keep them on a block stack instead of in a table."""

from torchard.compiler.decompile.ops import Op


def attach(ops: "list[Op]") -> "list[Op]":
    raise NotImplementedError
