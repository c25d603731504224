"""The check of newer syntax itself: what it takes, and that it would see a loss."""

from dataclasses import replace

from tests.compiler import newer
from torchard.compiler.decompile import decompile_code, recompile

PROGRAM = ("a program", "def f(n):\n    return [n]\n")


def test_only_programs_that_this_python_parses_are_taken():
    for tail in ("", "_run"):
        for _, source in newer.programs(tail):
            assert callable(newer.function(source))


def test_what_this_python_parses_comes_back():
    assert newer.failures(decompile_code, recompile) == []


def test_a_program_that_comes_back_is_no_failure(monkeypatch):
    monkeypatch.setattr(newer, "programs", lambda tail="": [PROGRAM])
    assert newer.failures(decompile_code, recompile) == []


def test_a_program_without_proof_is_named(monkeypatch):
    monkeypatch.setattr(newer, "programs", lambda tail="": [] if tail else [PROGRAM])

    def unproved(code, strategy="auto"):
        return replace(decompile_code(code, strategy=strategy), equivalence="unverified")

    ((title, *_),) = newer.failures(unproved, recompile)
    assert title == "a program"


def test_a_program_that_behaves_otherwise_is_named(monkeypatch):
    monkeypatch.setattr(newer, "programs", lambda tail="": [PROGRAM] if tail == "_run" else [])

    def changed(code, strategy="auto"):
        found = decompile_code(code, strategy=strategy)
        return replace(found, source=found.source.replace("[n]", "[n, n]"))

    assert [way for _, way, *_ in newer.failures(changed, recompile)] == ["auto", "dispatch"]
