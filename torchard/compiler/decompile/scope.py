"""What one code object needs to know while it is decompiled: names, temporaries, nested functions,
imports."""

import ast
import contextlib
from types import CodeType
from typing import Any

from torchard.compiler.decompile import generics, literals
from torchard.compiler.decompile.made import Alias, Class, Function, Import
from torchard.compiler.decompile.patch import letters
from torchard.compiler.decompile.slots import Impure, Slot, Unstructured
from torchard.compiler.decompile.stack import Stack, name

_NESTED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


class Scope:
    """One code object under decompilation; ``parent`` is the scope it is nested in."""

    def __init__(self, code: CodeType, parent: "Scope | None" = None, *, settings: Any = None) -> None:
        self.code = code
        self.parent = parent
        self.settings: Any = settings if settings is not None else parent.settings  # type: ignore[union-attr]
        self.frozen: "set[str]" = set()
        self.quiet: "set[str]" = set()  # stack slots of a dispatch loop: dropping their value says nothing
        self.globals: "set[str]" = set()
        self.stored: "set[str]" = set()
        self.annotated = False
        self.annotate: "CodeType | None" = None  # what a class gives its annotations by (3.14)
        self.hidden = False  # a function that no `def` in source says: for type parameters or annotations
        self.generic = False  # the one that makes type parameters; what it makes, and names it keeps
        self.made: "Slot | None" = None
        self.kept: "dict[str, Slot]" = {}
        self.parameters: "dict[str, Any]" = {}  # type parameters by the temporaries that hold them
        self.is_class = not code.co_flags & 0x2 and parent is not None
        self.locals = set(code.co_varnames) | set(code.co_cellvars)

    # -- names

    def temporary(self, slot: "Slot | None" = None) -> str:
        """Return a name that nothing in the whole code uses; that of a function tells the function's own."""
        if self.is_class:
            raise Unstructured("a temporary in a class body")
        temporary: str = self.settings.temporary()
        if slot is not None and slot.kind == "function":
            temporary += f"__{letters(slot.data.code.co_name)}_"
        self.frozen.add(temporary)
        self.settings.temporaries.append(temporary)
        return temporary

    def note(self, kind: str, identifier: str) -> None:
        """A load: a global read past a local of an enclosing function needs its declaration."""
        if kind == "global":
            scope = self.parent
            while scope is not None:
                if identifier in scope.locals and not scope.is_class:
                    self.declarer().globals.add(identifier)
                scope = scope.parent

    def mangler(self) -> str:
        """What the compiler puts before ``__private`` names here: ``_Class``, or nothing."""
        scope: "Scope | None" = self
        while scope is not None and not scope.is_class:
            scope = scope.parent
        title = scope.code.co_name.lstrip("_") if scope is not None else ""
        return f"_{title}" if title else ""

    def is_type_parameter(self, identifier: str) -> bool:
        scope = self.parent
        while scope is not None:
            if scope.generic and identifier in scope.locals:
                return True
            scope = scope.parent
        return False

    def declarer(self) -> "Scope":
        """The scope whose body a declaration can stand in."""
        scope = self
        while scope.hidden and scope.parent is not None:
            scope = scope.parent
        return scope

    def note_store(self, kind: str, identifier: str) -> None:
        if kind == "global":
            self.globals.add(identifier)
        elif kind == "deref":
            self.stored.add(identifier)

    def declarations(self) -> "list[ast.stmt]":
        """``global`` and ``nonlocal`` statements."""
        result: "list[ast.stmt]" = []
        if self.globals:
            result.append(ast.Global(sorted(self.globals)))
        outer = self.stored & set(self.code.co_freevars)
        if outer:
            result.append(ast.Nonlocal(sorted(outer)))
        return result

    def literal(self, value: Any) -> ast.expr:
        return literals.literal(value, self.settings.placeholders)

    def set_display(self, value: "frozenset[Any]") -> ast.expr:
        """``x in {1, 2}`` keeps its set as a frozenset constant."""
        if not value:
            return self.literal(value)
        return ast.Set([self.literal(item) for item in sorted(value, key=repr)])

    # -- functions and classes

    def is_statement(self, slot: Slot, identifier: str) -> bool:
        """Is this new function or class stored under the name it was defined with?"""
        own = self._title(slot.data)
        return own == identifier or (
            identifier.startswith("_") and identifier.endswith(own) and own.startswith("__")
        )

    def _title(self, made: Any) -> str:
        own: str = made.title if isinstance(made, (Class, Alias)) else made.code.co_name
        return own

    def define(self, slot: Slot, identifier: str) -> ast.stmt:
        """Return the ``def``, ``class`` or ``type`` statement that binds ``slot``."""
        made = slot.data
        own = self._title(made)
        if not self.is_statement(slot, identifier):
            if isinstance(made, Alias):
                raise Unstructured("a type alias under another name than its own")
            own = identifier
        if isinstance(made, Alias):
            return made.statement(own)
        return self._class(made, own) if isinstance(made, Class) else self._function(made, own)

    def _function(self, made: Function, own: str) -> ast.stmt:
        from torchard.compiler.decompile.functions import function_statement

        return function_statement(self, made, own)

    def _class(self, made: Class, own: str) -> ast.stmt:
        from torchard.compiler.decompile.functions import class_statement

        return class_statement(self, made, own)

    def apart(self, slot: Slot, temporary: str) -> "list[ast.stmt]":
        """What binds a type parameter, class or alias that no statement takes to a temporary."""
        if slot.kind == "param":
            self.parameters[temporary] = slot.data
            return generics.parameter_apart(slot.data, temporary)
        title = slot.data.title  # a class and an alias know the name they are bound to first
        if title in self.locals:
            raise Unstructured("a name that is taken")
        statement = slot.data.statement(title) if slot.kind == "alias" else self._class(slot.data, title)
        return [statement, ast.Assign([name(temporary, ast.Store())], name(title))]

    def function_expression(self, stack: Stack, slot: Slot) -> Slot:
        """A function as a value: a lambda, else a ``def`` written before with a name of its own, which the
        recompiled code loses again."""
        from torchard.compiler.decompile.functions import lambda_expression

        made = slot.data
        if made.code.co_name == "<lambda>" and not made.decorators:
            with contextlib.suppress(Unstructured):
                expr = lambda_expression(self, made)
                return Slot("ordered", expr, slot.reads, None, slot.uid, slot.seq)
        if stack.pure:
            raise Impure
        stack.spill_until(slot)
        return next(other for other in stack.slots if other.uid == slot.uid)

    def annotations(self, slot: Slot) -> Slot:
        """The annotations that a lazily run ``__annotate__`` would return (3.14)."""
        from torchard.compiler.decompile.annotations import given

        if slot.kind != "function" or slot.data.code.co_name != "__annotate__":
            raise Unstructured("annotations from something else than __annotate__")
        node = given(generics.lazily(self, slot.data.code))
        return Slot("ordered", node, slot.reads, None, slot.uid, slot.seq)

    def comprehension(self, stack: Stack) -> None:
        """Replace a comprehension's function and iterator on the stack by the comprehension."""
        from torchard.compiler.decompile.functions import comprehension_expression

        iterator, function = stack.slots[-1], stack.slots[-2]
        if function.data.code.co_name not in _NESTED:
            raise Unstructured("a function called with a bare iterator")
        if iterator.data == "GetYieldFromIter":
            raise Unstructured("a comprehension over a delegated iterator")
        expr = comprehension_expression(
            self, function.data, iterator.expr, asynchronous=iterator.data == "GetAiter"
        )
        del stack.slots[-2:]
        waits = bool(function.data.code.co_flags & 0x80)
        stack.push("ordered", expr, iterator.reads, "awaited" if waits else None)

    # -- imports

    def store_import(self, stack: Stack, slot: Slot, identifier: str) -> None:
        """Bind what an import brought."""
        if slot.kind == "module":
            self._store_module(stack, slot.data, identifier)
            return
        whole, attribute = slot.data
        if isinstance(whole, tuple):  # a.b.c taken step by step
            whole = whole[0]
        if not whole.fromlist:
            whole.taken = True
            stack.emit(ast.Import([ast.alias(whole.module, identifier)]))
            return
        alias = None if attribute == identifier else identifier
        if any(other.kind == "module" and other.data is whole for other in stack.slots):
            whole.names.append((attribute, alias))
        else:
            stack.emit(ast.ImportFrom(whole.module or None, [ast.alias(attribute, alias)], whole.level))

    def _store_module(self, stack: Stack, whole: Import, identifier: str) -> None:
        if whole.fromlist:
            raise Unstructured("a module imported for its names is kept itself")
        top = whole.module.split(".")[0]
        if identifier == top:
            stack.emit(ast.Import([ast.alias(whole.module, None)]))
        elif "." not in whole.module:
            stack.emit(ast.Import([ast.alias(whole.module, identifier)]))
        else:
            raise Unstructured("the package of a dotted import is kept under another name")

    def pop_import(self, stack: Stack, slot: Slot) -> None:
        """The module itself is dropped: write the statement with the names taken."""
        whole = slot.data
        if not whole.fromlist:
            if not whole.taken and not any(other.kind == "imported" for other in stack.slots):
                stack.emit(ast.Import([ast.alias(whole.module, self.temporary())]))
            return
        if whole.names:
            names = [ast.alias(attribute, alias) for attribute, alias in whole.names]
            stack.emit(ast.ImportFrom(whole.module or None, names, whole.level))


class Settings:
    """What all scopes of one decompilation share."""

    def __init__(self, code: CodeType, *, attempt: int = 0, percent: bool = False) -> None:
        self.placeholders = literals.Placeholders(code)
        self.attempt = attempt
        self.percent = percent
        self.count = 0
        self.temporaries: "list[str]" = []
        self.line_map: "dict[int, int]" = {}
        self.used: "set[str]" = set()
        self.unstructured: "list[str]" = []
        self.counter = "_pc"
        self.plain_super = False  # `super().x` is a call and an attribute, not one instruction
        todo = [code]
        while todo:
            one = todo.pop()
            self.used.update(one.co_names, one.co_varnames, one.co_cellvars, one.co_freevars)
            todo.extend(const for const in one.co_consts if isinstance(const, CodeType))

    def counter_of(self, scope: Any) -> str:
        """The name of a dispatch loop's block number."""
        self.counter = self.special("pc")
        return self.counter

    def special(self, tail: str) -> str:
        """Return ``_tail``, with more underscores where the code uses that name itself."""
        candidate = "_" + tail
        while candidate in self.used:
            candidate = "_" + candidate
        return candidate

    def dispatch_nested(self, code: CodeType) -> bool:
        """Nested functions stay structured where they can."""
        return False

    def temporary(self) -> str:
        while True:
            candidate = f"_t{self.count}"
            self.count += 1
            if candidate not in self.used:
                return candidate
