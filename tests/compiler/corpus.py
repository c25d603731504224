"""The functions of the standard library outside its tests: the corpus the decompiler is measured on."""

import os
import sys
import sysconfig
import types
import zipfile

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


def sources(root=None):
    """Yield (path, text) for every module; a library that lies in a zip file is read from there."""
    for path in files(root):
        with open(path, "rb") as file:
            yield path, file.read()
    for archive in [] if root else [entry for entry in sys.path if zipfile.is_zipfile(entry)]:
        with zipfile.ZipFile(archive) as library:
            for name in sorted(library.namelist()):
                if name.endswith(".py") and not set(LEFT_OUT) & set(name.split("/")):
                    yield name, library.read(name)


def functions(root=None):
    """Yield (name, code) for every ``def`` and ``lambda``, nested ones too, compiled from source."""
    for path, text in sources(root):
        try:
            module = compile(text, path, "exec")
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
