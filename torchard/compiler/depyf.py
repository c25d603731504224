"""See what torch.compile made of your code: as source you can read, step through and diff."""

from torchard.compiler.decompile import (
    Decompiled,
    Equivalence,
    UnsupportedOpcode,
    decompile,
    decompile_code,
    equivalent,
    recompile,
    supported_opcodes,
)
from torchard.compiler.dynamo.dispatcher import CodeDispatcher
from torchard.compiler.dynamo.explain import Explanation, explain
from torchard.compiler.dynamo.logs import install, uninstall
from torchard.compiler.dynamo.session import Session, debug, prepare_debug
from torchard.core.method import Method

METHOD = Method(
    shapes=("tool",),
    source="You et al. 2024, arXiv 2403.13839",
    claim="Bytecode of PyTorch programs comes back as source: 140 of 140 generated programs decompiled.",
)

__all__ = [
    "CodeDispatcher",
    "Decompiled",
    "Equivalence",
    "Explanation",
    "Session",
    "UnsupportedOpcode",
    "debug",
    "decompile",
    "decompile_code",
    "equivalent",
    "explain",
    "install",
    "prepare_debug",
    "recompile",
    "supported_opcodes",
    "uninstall",
]
