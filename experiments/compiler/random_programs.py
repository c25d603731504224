"""Random programs for the decompiler: nested loops, handlers, contexts, closures, comprehensions, walrus."""

import random


class Writer:
    """Writes one random function ``f(a, b)`` that always ends and logs what it does through ``log``."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.loops = 0

    def function(self) -> str:
        """Return its source."""
        self.lines = ["def f(a, b):", "    x = y = 0"]
        self.block(1, depth=3)
        self.lines.append("    return x, y, a, b")
        return "\n".join(self.lines)

    def block(self, indent: int, *, depth: int, loop: bool = False) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.statement(indent, depth, loop)

    def line(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def statement(self, indent: int, depth: int, loop: bool) -> None:
        simple = [self.assign, self.log, self.augment]
        if loop:
            simple.append(self.leave)
        nested = [self.branch, self.for_loop, self.handler, self.final, self.context, self.while_loop]
        kind = self.random.choice(simple + nested * 2 if depth else simple)
        if kind in simple:
            kind(indent)
        else:
            kind(indent, depth - 1, loop)

    def value(self, depth: int = 2) -> str:
        pick = self.random.randint(0, 9 if depth else 3)
        one, two = (self.value(depth - 1), self.value(depth - 1)) if depth else ("a", "b")
        forms = [
            "x",
            "y",
            "a",
            str(self.random.randint(-3, 5)),
            f"({one} + {two})",
            f"call({one}, {two})",
            f"({one} if {self.test()} else {two})",
            f"({one} and {two})",
            f"sum([q * {one} for q in range(3) if q != x])",
            f"(z := {one})",
        ]
        return forms[pick]

    def test(self) -> str:
        forms = [
            "x < y",
            "not a",
            "0 <= x < 4",
            "a and x",
            "b or y",
            "x in (1, 2, a)",
            "y is None",
            "x != y and not b",
        ]
        return self.random.choice(forms)

    def assign(self, indent: int) -> None:
        target = self.random.choice(["x", "y", "x = y", "x, y"])
        self.line(indent, f"{target} = {self.value()}" + (f", {self.value()}" if target == "x, y" else ""))

    def augment(self, indent: int) -> None:
        self.line(
            indent, f"{self.random.choice('xy')} {self.random.choice(['+=', '-=', '*='])} {self.value(1)}"
        )

    def log(self, indent: int) -> None:
        self.line(indent, f"log({self.value(1)}, x)")

    def leave(self, indent: int) -> None:
        self.line(indent, f"if {self.test()}: {self.random.choice(['break', 'continue', 'return x'])}")

    def branch(self, indent: int, depth: int, loop: bool) -> None:
        self.line(indent, f"if {self.test()}:")
        self.block(indent + 1, depth=depth, loop=loop)
        if self.random.random() < 0.6:
            self.line(indent, self.random.choice(["else:", f"elif {self.test()}:"]))
            self.block(indent + 1, depth=depth, loop=loop)

    def for_loop(self, indent: int, depth: int, loop: bool) -> None:
        self.line(indent, f"for x in range({self.random.randint(0, 3)}):")
        self.block(indent + 1, depth=depth, loop=True)
        if self.random.random() < 0.3:
            self.line(indent, "else:")
            self.block(indent + 1, depth=depth, loop=loop)

    def while_loop(self, indent: int, depth: int, loop: bool) -> None:
        self.loops += 1
        count = f"n{self.loops}"
        self.line(indent, f"{count} = 0")
        self.line(
            indent,
            f"while {count} < 3{self.random.choice(['', ' and not b', ' or (a and ' + count + ' < 4)'])}:",
        )
        self.line(indent + 1, f"{count} += 1")
        self.block(indent + 1, depth=depth, loop=True)

    def handler(self, indent: int, depth: int, loop: bool) -> None:
        self.line(indent, "try:")
        self.block(indent + 1, depth=depth, loop=loop)
        self.line(indent + 1, "fail(x)")
        self.line(
            indent,
            self.random.choice(
                ["except ValueError as e:", "except (ValueError, KeyError):", "except KeyError as e:"]
            ),
        )
        self.block(indent + 1, depth=depth, loop=loop)
        if self.random.random() < 0.4:
            self.line(indent, "else:")
            self.block(indent + 1, depth=depth, loop=loop)

    def final(self, indent: int, depth: int, loop: bool) -> None:
        self.line(indent, "try:")
        self.block(indent + 1, depth=depth, loop=loop)
        self.line(indent, "finally:")
        self.line(indent + 1, f"log('finally', {self.value(1)})")

    def context(self, indent: int, depth: int, loop: bool) -> None:
        self.line(indent, f"with Context({self.random.randint(0, 2)}) as y:")
        self.block(indent + 1, depth=depth, loop=loop)
