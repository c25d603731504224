"""The few private names of torch that the inspector needs. Each may be missing: then that artefact is missing
too."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

TRACE_LOGGER = "torch.__trace"
BYTECODE_LOGGER = "torch._dynamo.convert_frame.__bytecode"


def register_bytecode_hook(hook: Callable[[CodeType, CodeType], CodeType | None]) -> Any:
    """Call ``hook(old, new)`` for each code object Dynamo transforms; return a handle with ``remove()``."""
    from torch._dynamo import convert_frame

    # torch declares the hook by the names of its parameters and calls it by position.
    return convert_frame.register_bytecode_hook(hook)  # type: ignore[arg-type]


def compile_id() -> str | None:
    """Return the id of the compilation under way (``"frame/attempt"``), as the trace stream writes it."""
    try:
        from torch._guards import CompileContext

        current = CompileContext.current_compile_id()
    except (ImportError, AttributeError):
        return None
    return None if current is None else f"{current.frame_id}/{current.frame_compile_id}"


def cache_entries(code: CodeType) -> list[Any]:
    """Return what Dynamo keeps for ``code``: objects with ``code``, ``guard_manager``, ``compile_id``,
    ``backend``."""
    try:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        return list(_debug_get_cache_entry_list(code))
    except (ImportError, AttributeError, TypeError):
        _missing("cache entries")
        return []


@contextlib.contextmanager
def trace_records(receive: Callable[[dict[str, Any], str], None]) -> Iterator[None]:
    """Send every record of torch's structured trace to ``receive(metadata, payload)``."""
    logger = logging.getLogger(TRACE_LOGGER)
    handler, level = _Receiver(receive), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def graph_sources(name: Callable[[str], str | None]) -> Iterator[None]:
    """Compile the ``forward`` of FX graphs from the file that ``name(source)`` gives, if it gives one."""
    try:
        from torch.fx.graph_module import _loader

        original = _loader.cache
    except (ImportError, AttributeError):
        _missing("steppable graphs")
        yield
        return

    def cache(source: str, *args: Any, **kwargs: Any) -> str:
        return name(source) or original(source, *args, **kwargs)

    _loader.cache = cache  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del _loader.cache


class _Receiver(logging.Handler):
    def __init__(self, receive: Callable[[dict[str, Any], str], None]) -> None:
        super().__init__(logging.DEBUG)
        self._receive = receive

    def emit(self, record: logging.LogRecord) -> None:
        metadata = getattr(record, "metadata", None)
        if isinstance(metadata, dict):
            try:
                self._receive(metadata, getattr(record, "payload", None) or "")
            except Exception:
                self.handleError(record)


def _missing(what: str) -> None:
    warnings.warn(f"this torch gives no access to {what}: they are left out of the dump", stacklevel=3)
