"""The functions of the standard library outside its tests: the corpus the decompiler is measured on."""

import os
import sysconfig
import types

LEFT_OUT = ("test", "tests", "idle_test", "site-packages", "__pycache__")
GENERATED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "__annotate__")


def files(root=None):
    """Return the paths of the standard library's modules, sorted."""
    found = []
    for folder, folders, names in os.walk(root or sysconfig.get_paths()["stdlib"]):
        folders[:] = sorted(
            name for name in folders if name not in LEFT_OUT and not name.startswith("config-")
        )
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


def functions(root=None):
    """Yield (name, code) for every ``def`` and ``lambda``, nested ones too, compiled from source."""
    for path in files(root):
        with open(path, "rb") as file:
            try:
                module = compile(file.read(), path, "exec")
            except SyntaxError:
                continue
        yield from _nested(module, os.path.basename(path))


def _nested(code, path):
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            name = f"{path}.{const.co_name}"
            plain = const.co_name not in GENERATED and not const.co_name.startswith("<generic")
            if const.co_flags & 0x2 and plain:
                yield name, const
            yield from _nested(const, name)
