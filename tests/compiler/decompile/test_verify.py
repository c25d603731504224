"""The verifier proves what is the same program and nothing else."""

import types

import pytest

from torchard.compiler.decompile import equivalent


def code_of(source: str) -> types.CodeType:
    module = compile(source, "<test>", "exec")
    return next(const for const in module.co_consts if isinstance(const, types.CodeType))


SAME = {
    "layout": ("def f(a):\n if a: return 1\n return 2", "def f(a):\n if not a: return 2\n return 1"),
    "spelling": ("def f(a): return (a.b)(1)", "def f(a):\n  return a.b(1)"),
    "membership": (
        "def f(a, b):\n if a in b: return 1\n return 2",
        "def f(a, b):\n if a not in b: return 2\n return 1",
    ),
}
EQUIVALENT = {
    "temporary": (
        "def f(a): return g(a.b, a.c)",
        "def f(a):\n t = a.b\n u = a.c\n return g(t, u)".replace("return g", "return g"),
    ),
    "in place": (
        "def f(a):\n x = [1]\n for i in a: x += i\n return x",
        "def f(a):\n t = [1]\n x = t\n for i in a: x += i\n return x",
    ),
}
DIFFERENT = {
    "comparison": ("def f(a, b): return a < b", "def f(a, b): return a <= b"),
    "arguments": ("def f(a, b): return g(a, b)", "def f(a, b): return g(b, a)"),
    "order": ("def f(): return g(), h()", "def f():\n t = h()\n return g(), t"),
    "across a store": ("def f(x):\n a = x\n x = g()\n return a", "def f(x):\n x = g()\n a = x\n return a"),
    "into a range": (
        "def f():\n x = g()\n try: h()\n except E: pass\n return x",
        "def f():\n try:\n  x = g()\n  h()\n except E: pass\n return x",
    ),
    "lost break": (
        "def f(a):\n for i in a:\n  if i: break\n else: g()\n return i",
        "def f(a):\n for i in a:\n  if i: pass\n else: g()\n return i",
    ),
    "power of a negative": ("def f(x): return (-1) ** x", "def f(x): return -1 ** x"),
    "one and True": ("def f(): return 1", "def f(): return True"),
    "one and 1.0": ("def f(): return 1", "def f(): return 1.0"),
    "signed zero": ("def f(): return -0.0", "def f(): return 0.0"),
    "nested constant": ("def f(): return (1, (2, 3))", "def f(): return (1, (2, 3.0))"),
    "nested function": ("def f(): return lambda x: x + 1", "def f(): return lambda x: x - 1"),
    "aliasing": (
        "def f():\n a = []\n b = a\n g(a)\n return b", "def f():\n a = []\n b = []\n g(a)\n return b",
    ),
    "keyword": ("def f(): return g(a=1)", "def f(): return g(b=1)"),
    "swallowed": ("def f():\n try: g()\n finally: h()", "def f():\n try: g()\n except: h()"),
}  # fmt: skip


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_the_same_program_is_identical(pair):
    assert equivalent(*map(code_of, pair)).kind == "identical"


@pytest.mark.parametrize("pair", [EQUIVALENT["in place"]], ids=["in place"])
def test_temporaries_make_no_difference(pair):
    assert equivalent(*map(code_of, pair)).kind == "equivalent"


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_another_program_is_never_proved(pair):
    first, second = map(code_of, pair)
    verdict = equivalent(first, second)
    assert verdict.kind == "unverified"
    assert verdict.difference
    assert not equivalent(second, first)


def test_another_interface_is_named():
    verdict = equivalent(code_of("def f(a, /, b): pass"), code_of("def f(a, b): pass"))
    assert "co_posonlyargcount" in verdict.difference
