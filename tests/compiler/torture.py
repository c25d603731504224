"""Functions whose control flow is hard to keep: handlers, contexts, generators, coroutines, order of
evaluation.

Runs on Python 3.9 and later, without the rest of the tests, so that other interpreters can run it.
"""

import asyncio
import inspect
import sys
import types

log: list = []


class Context:
    """Logs what happens to it; swallows exceptions if asked to."""

    def __init__(self, name, swallows=False):
        self.name = name
        self.swallows = swallows

    def __enter__(self):
        log.append(("enter", self.name))
        return self

    def __exit__(self, kind, value, trace):
        log.append(("exit", self.name, kind and kind.__name__, repr(value.__context__) if value else None))
        return self.swallows

    async def __aenter__(self):
        log.append(("enter", self.name))
        return self

    async def __aexit__(self, kind, value, trace):
        log.append(("exit", self.name, kind and kind.__name__))
        return self.swallows


def fail(error):
    raise error


def nested_handlers(n):
    try:
        try:
            if n == 1:
                raise ValueError(1)
            if n == 2:
                raise KeyError(2)
            log.append("body")
        except ValueError as e:
            log.append(sys.exc_info()[0])
            raise TypeError("x") from e
        except KeyError:
            fail(IndexError(3))
        else:
            log.append("else")
        finally:
            log.append(("finally", sys.exc_info()[0]))
    except Exception as e:
        return type(e), repr(e.__context__), repr(e.__cause__), "e" in locals()
    return "end"


def context_in_loop(n):
    for i in range(5):
        with Context(i, swallows=(n == 1)):
            if i == 2 and n == 0:
                return i
            if i == 3:
                continue
            if i == 1 and n == 2:
                break
            if n == 1:
                raise ValueError(i)
            log.append(i)
    else:
        log.append("else")
    return sys.exc_info()


def overriding_finally(n):
    try:
        return fail(ValueError()) if n else 5
    except ValueError:
        try:
            raise
        except ValueError as again:
            log.append(repr(again.__context__))
        return sys.exc_info()[0]
    finally:
        if n == 2:
            return "over"  # noqa: B012
        log.append("f")


def finally_in_loop(n):
    result = []
    while True:
        try:
            n -= 1
            if n < 0:
                break
            if n % 2:
                continue
            result.append(n)
        finally:
            result.append("f")
    else:
        result.append("never")
    return result


def generator(n):
    try:
        sent = yield 1
        log.append(sent)
        result = yield from range(n)
        try:
            yield "in"
        except GeneratorExit:
            log.append("closed")
            raise
        except ValueError as e:
            yield repr(e)
        return result
    finally:
        log.append("done")


def expressions(n):
    a, b, c = n, n % 2, 3
    return (
        (a and b) or c, a < b < c, not a if b else c,
        [x for x in (a, b, c) if x], {k: v for k, v in zip("abc", (a, b, c))},
        {y for x in range(n) for y in range(x) if y % 2}, a if b else (b or c),
    )  # fmt: skip


def closure_in_loop(n):
    x = 1

    def step():
        nonlocal x
        x += n
        return x

    for i in range(n):
        if step() > 10:
            break
        try:
            if i == 3:
                continue
        finally:
            log.append(i)
    else:
        return "else", x
    return x


def computed_clauses(n):
    try:
        fail(ValueError)
    except KeyError if n else ValueError:
        return "v"
    except 5 if n == 2 else Exception:
        return "E"


async def numbers(n):
    for i in range(n):
        try:
            yield i
        finally:
            log.append(("number", i))


async def coroutine(n):
    async with Context("a", swallows=n == 2):
        async for x in numbers(n):
            log.append(x)
            if n == 2:
                raise KeyError(1)
        else:
            log.append("else")
        await asyncio.sleep(0)
        return [y async for y in numbers(3) if y]
    return "swallowed"


def continue_in_handler(n):
    while n:
        try:
            try:
                n -= 1
                fail(ValueError(n))
            except ValueError as e:
                if n == 2:
                    raise KeyError from e
                continue
        except KeyError as k:
            return repr(k.__cause__)
    return n


def two_contexts(n):
    with Context("o", swallows=True), Context("i"):
        if n:
            raise ValueError
        return 1
    return 2


def order_of_evaluation(n):
    x = n
    i, places = 0, [1, 2, 3]
    i, places[i] = 1, 2
    s = [n]
    t = s
    t.append(1)
    d = {}
    d["a"] = d["b"] = n
    places[0] += 5
    places[1:2] = [7]
    del places[0]
    y = [z := n, z + 1]
    call = (lambda q, *a, **k: (q, a, k))(*places, k=1, **d)
    return x, i, places, s, d, y, f"{n!r:>{10}}", "%s" % (n,), call


def handler_context(n):
    try:
        with Context("w"):
            try:
                fail(KeyError("a"))
            except KeyError:
                if n:
                    fail(ValueError("b"))
                raise
            finally:
                log.append(repr(sys.exc_info()[1]))
    except Exception as e:
        return repr(e), repr(e.__context__), sys.exc_info()[0]


class Base:
    """Keeps what a class statement was given."""

    def __init_subclass__(cls, **options):
        cls.options = options


def definitions(n):
    log.append(n)

    def plain(a, b=n or 1, *, c=n and 2, d=3, e: (int if n else str) = 4):
        """Doc."""
        return a, b, c, d, e

    class Later(Base if n else object, **({"flag": n or 5} if n else {})):
        """Doc."""

        kept = n

        def method(self):
            return super().__repr__() and self.kept + n

    class Starred(*((Base, dict) if n else (dict,))):
        pass

    made = (
        Later.__qualname__,
        Later.__doc__,
        Later.__mro__[1:],
        Later().method(),
        getattr(Later, "options", 0),
    )
    keyed = (lambda *, k=n or 7, j=1: (k, j))()
    return plain(0), plain.__annotations__, plain.__doc__, plain.__name__, made, Starred.__mro__[1:], keyed


FUNCTIONS = [
    nested_handlers, context_in_loop, overriding_finally, finally_in_loop, generator, expressions,
    closure_in_loop,
    computed_clauses, coroutine, continue_in_handler, two_contexts, order_of_evaluation, handler_context,
    definitions,
]  # fmt: skip


def behaviour(function, n):
    """Return everything a caller could see of ``function(n)``: value or exception, and the log."""
    log.clear()
    try:
        result = function(n)
        if isinstance(result, types.GeneratorType):
            result = _drive(result, n)
        elif inspect.iscoroutine(result):
            result = _finish(result) if sys.platform == "emscripten" else asyncio.run(result)
        return "returned", repr(result), [repr(one) for one in log]
    except BaseException as error:
        return (
            "raised",
            repr(error),
            repr(error.__context__),
            repr(error.__cause__),
            [repr(one) for one in log],
        )


def _finish(coroutine):
    """Run a coroutine where no event loop may block: all that is awaited here is ready."""
    begun = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=begun.append)
    try:
        return _send(coroutine)
    finally:
        for generator in begun:  # as asyncio.run does at its end
            _send(generator.aclose())
        sys.set_asyncgen_hooks(*before)


def _send(coroutine):
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value


def _drive(generator, n):
    seen = []
    try:
        seen.append(next(generator))
        seen.append(generator.send("s"))
        for value in generator:
            seen.append(value)
            if value == "in" and n == 3:
                seen.append(generator.throw(ValueError("t")))
            if value == "in" and n == 4:
                generator.close()
    except StopIteration as stop:
        seen.append(stop.value)
    return seen


def twin(function, source, recompile):
    """Return ``function`` with the code compiled from ``source``."""
    code = recompile(source, function.__code__)
    return types.FunctionType(code, globals(), function.__name__, function.__defaults__, function.__closure__)
