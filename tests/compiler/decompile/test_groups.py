"""``except*`` comes back as it was written, proved, and behaves the same."""

import types

import pytest

from torchard.compiler.decompile import decompile_code, recompile

PROGRAMS = {
    "two clauses": """
def f(call, log):
    try:
        call()
    except* ValueError as e:
        log(repr(e.exceptions))
    except* (KeyError, TypeError):
        log('other')
    return 1
""",
    "else and finally": """
def f(call, log):
    for i in range(2):
        try:
            call()
        except* (ValueError if log else OSError):
            try:
                call()
            except* KeyError as k:
                log(k)
        except* TypeError as e:
            raise
        else:
            log('else')
        finally:
            log('finally')
    return i
""",
    "loop in a clause": """
def f(call, log):
    while True:
        try:
            return call()
        except* ValueError as e:
            for q in e.exceptions:
                if q.args:
                    break
                log(q)
        except* OSError as e:
            raise KeyError from e
        log('again')
        call = list
""",
    "context in the last clause": """
def f(call, log):
    try:
        call()
    except* ValueError as e:
        try:
            log(e)
        finally:
            log('inner')
    except* TypeError:
        with log as x:
            log(x)
    else:
        return 7
    log('end')
""",
    "inside a handler": """
def f(call, log):
    try:
        try:
            call()
        except* ValueError as e:
            log(e)
    except ExceptionGroup as rest:
        return repr(rest)
""",
}
RAISED = [
    None,
    ValueError(1),
    ValueError(),
    ExceptionGroup("g", [ValueError(2), KeyError("k"), TypeError()]),
    ExceptionGroup("g", [OSError(), ExceptionGroup("h", [TypeError("t")])]),
    RuntimeError("r"),
]


class Log(list):
    """Called to log; entered as a context that swallows nothing."""

    def __call__(self, what):
        self.append(repr(what))

    def __enter__(self):
        return "entered"

    def __exit__(self, *kind):
        self.append("left")


def code_of(source):
    module = compile(source, "<groups>", "exec")
    return next(const for const in module.co_consts if isinstance(const, types.CodeType))


def behaviour(code, raised):
    log = Log()

    def call():
        if raised is not None:
            raise raised

    try:
        value = types.FunctionType(code, {})(call, log)
    except BaseException as error:
        return repr(error), repr(error.__cause__), repr(getattr(error, "exceptions", None)), log
    return value, log


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_exception_groups_come_back_structured_proved_and_alike(source):
    code = code_of(source)
    found = decompile_code(code)
    assert found.strategy == "structured", found.unsupported
    assert found.equivalence in ("identical", "equivalent")
    assert "except*" in found.source
    twin = recompile(found.source, code)
    for raised in RAISED:
        assert behaviour(twin, raised) == behaviour(code, raised)


def test_a_clause_that_takes_something_else_behaves_otherwise():
    code = code_of(PROGRAMS["two clauses"])
    other = recompile(decompile_code(code).source.replace("ValueError", "OSError"), code)
    assert behaviour(other, RAISED[1]) != behaviour(code, RAISED[1])


def test_the_fallback_refuses_exception_groups_by_name():
    with pytest.raises(ValueError, match="except\\*"):
        decompile_code(code_of(PROGRAMS["two clauses"]), strategy="dispatch")
