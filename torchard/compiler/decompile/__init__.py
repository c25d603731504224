"""From bytecode of the running Python to source, with a proof that it is the same program.

Needs the standard library only, on Python 3.9 to 3.14.
"""

from torchard.compiler.decompile.api import Decompiled, decompile, decompile_code
from torchard.compiler.decompile.ops import UnsupportedOpcode
from torchard.compiler.decompile.reader import supported_opcodes
from torchard.compiler.decompile.source import recompile
from torchard.compiler.decompile.verify import Equivalence, equivalent

__all__ = [
    "Decompiled",
    "Equivalence",
    "UnsupportedOpcode",
    "decompile",
    "decompile_code",
    "equivalent",
    "recompile",
    "supported_opcodes",
]
