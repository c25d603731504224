"""Run on another interpreter: decompile every n-th function of its library, the torture set and the newer
syntax, and check them.

Usage: python elsewhere.py STEP. Needs the standard library only. Exits 1 if fewer than 96.5 % are proved, a
recompiled function of the torture set behaves differently, or newer syntax does not come back.
"""

import importlib.util
import opcode
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from torchard.compiler.decompile import decompile_code, recompile, supported_opcodes  # noqa: E402


def load(name):
    """Return a module beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(step):
    corpus, torture, newer = load("corpus"), load("torture"), load("newer")
    sample = list(corpus.functions())[::step]
    kinds = [decompile_code(code).equivalence for _, code in sample]
    proved = sum(kind != "unverified" for kind in kinds) / len(kinds)
    wrong = []
    for function in torture.FUNCTIONS:
        for strategy in ("auto", "dispatch"):
            twin = torture.twin(function, decompile_code(function, strategy=strategy).source, recompile)
            if any(torture.behaviour(twin, n) != torture.behaviour(function, n) for n in range(6)):
                wrong.append((function.__name__, strategy))
    unread = sorted(opcodes() - supported_opcodes())
    lost = newer.failures(decompile_code, recompile)
    print(
        f"Python {sys.version.split()[0]}: {len(kinds)} functions, {proved:.2%} proved, "
        f"torture set wrong: {wrong}, newer syntax ({len(list(newer.programs()))} programs) wrong: {lost}, "
        f"opcodes not read: {unread}"
    )
    return 1 if proved < 0.965 or wrong or lost or unread else 0


def opcodes():
    """Return the names of the instructions that compiled code can hold."""
    return {
        name
        for name, number in opcode.opmap.items()
        if number < 256
        and not name.startswith("INSTRUMENTED_")
        and name not in getattr(opcode, "_specialized", ())
        and name not in getattr(opcode, "_specialized_opmap", ())
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
