"""Does this code object do what that one does? Proofs, not tests."""

from torchard.compiler.decompile.verify.equivalence import Equivalence, equivalent

__all__ = ["Equivalence", "equivalent"]
