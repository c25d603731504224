"""Check the decompiler on syntax that is newer than the oldest Python it runs on.

The programs lie in text files, named for the first Python that parses them, and only that and later ones
compile them. Each defines a function ``f``. In ``newer/3.12.txt`` and so on it must come back structured and
proved; in ``newer/3.12_run.txt`` and so on what it returns is compared too, in ``newer/3.12_written_out.txt``
with type parameters not recognised. Needs the standard library only.
"""

import sys
import types
from pathlib import Path

FOLDER = Path(__file__).with_name("newer")
WAYS = ("auto", "dispatch")


def programs(tail=""):
    """Yield (name, source) of every program that this Python parses."""
    for minor in range(10, sys.version_info[1] + 1):
        file = FOLDER / f"3.{minor}{tail}.txt"
        blocks = file.read_text(encoding="utf-8").split("## ")[1:] if file.is_file() else []
        for block in blocks:
            title, source = block.split("\n", 1)
            yield f"3.{minor} {title}", source


def function(source):
    """Return the function ``f`` that ``source`` defines."""
    names = {}
    exec(compile(source, "<newer>", "exec"), names)
    return names["f"]


def behaviour(function):
    """Return what ``function`` gives for small numbers: values and exceptions."""
    results = []
    for n in range(3):
        try:
            results.append(repr(function(n)))
        except Exception as error:
            results.append(repr(error))
    return results


def failures(decompile_code, recompile):
    """Return what does not come back as it should: (program, what is wrong)."""
    wrong = []
    for title, source in programs():
        code = function(source).__code__
        found = decompile_code(code)
        if found.strategy != "structured" or found.equivalence == "unverified":
            wrong.append((title, found.strategy, found.equivalence, found.unsupported))
        elif decompile_code(recompile(found.source, code)).source != found.source:
            wrong.append((title, "not the same text twice"))
        recompile(decompile_code(code, strategy="dispatch").source, code)
    return wrong + changed("_run", decompile_code, recompile) + written_out(decompile_code, recompile)


def changed(tail, decompile_code, recompile):
    """Return the programs whose recompiled function behaves otherwise."""
    wrong = []
    for title, source in programs(tail):
        original = function(source)
        for strategy in WAYS:
            text = decompile_code(original, strategy=strategy).source
            twin = types.FunctionType(recompile(text, original.__code__), original.__globals__)
            if behaviour(twin) != behaviour(original):
                wrong.append((title, strategy, behaviour(original), behaviour(twin)))
    return wrong


def written_out(decompile_code, recompile):
    """The same where type parameters are not recognised: what the compiler's functions do is written out."""
    from torchard.compiler.decompile import generics

    def refuse(outer, code):
        raise generics.Unstructured("as the test asks for")

    recognise, generics.run = generics.run, refuse
    try:
        return changed("_written_out", decompile_code, recompile)
    finally:
        generics.run = recognise
