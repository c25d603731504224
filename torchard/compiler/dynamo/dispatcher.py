"""Call one compiled entry of a function by hand, without its guards."""

import contextlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torchard.compiler.decompile.api import unwrap
from torchard.compiler.dynamo import compat


class CodeDispatcher:
    """The compiled entries of ``fn``, newest last; ``with dispatcher.use(i): fn(...)`` runs entry ``i``.

    Guards are not asked: an entry compiled for other shapes or types may fail or, worse, answer wrongly.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        code, function = unwrap(getattr(fn, "_torchdynamo_orig_callable", fn))
        if function is None:
            raise TypeError(f"`fn` is {fn!r:.80}; give the function itself, not its code")
        self._function = function
        self._original = code

    @property
    def compiled_codes(self) -> tuple[CodeType, ...]:
        """The transformed code objects Dynamo keeps for the function, oldest first."""
        return tuple(entry.code for entry in reversed(compat.cache_entries(self._original)))

    @contextlib.contextmanager
    def use(self, index: int) -> Iterator[Callable[..., Any]]:
        """Make the function run its compiled entry ``index`` inside the ``with``.

        Raises:
            IndexError: if there is no such entry.
        """
        codes = self.compiled_codes
        if not 0 <= index < len(codes):
            raise IndexError(f"`index={index}`: the function has {len(codes)} compiled entries")
        self._function.__code__ = codes[index]
        try:
            yield self._function
        finally:
            self._function.__code__ = self._original
