"""Decompiled source beside the bytecode that ``TORCH_LOGS="+bytecode"`` prints."""

import logging
from types import CodeType
from typing import Any

from torchard.compiler.decompile import decompile
from torchard.compiler.dynamo import compat

_handles: list[Any] = []


def install(level: str = "DEBUG") -> None:
    """Log the source of every transformed function to torch's bytecode log, at ``level``. Twice is once.

    Raises:
        ValueError: if ``level`` is no logging level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"`level={level!r}` is no logging level; use DEBUG, INFO, WARNING or ERROR")
    if _handles:
        return
    logger = logging.getLogger(compat.BYTECODE_LOGGER)

    def tell(old: CodeType, new: CodeType) -> None:
        if logger.isEnabledFor(number):
            logger.log(
                number,
                "DECOMPILED %s %s line %s\n%s",
                old.co_name,
                old.co_filename,
                old.co_firstlineno,
                _text(new),
            )

    _handles.append(compat.register_bytecode_hook(tell))


def uninstall() -> None:
    """Undo :func:`install`; does nothing if it was not called."""
    while _handles:
        _handles.pop().remove()


def _text(code: CodeType) -> str:
    try:
        return decompile(code)
    except Exception as error:  # a hook that raises would break the user's program
        return f"# not decompiled: {error}"
