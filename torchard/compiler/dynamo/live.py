"""Guards of this process, for the ``guard_*.py`` files of a dump: text while reading, callable while
debugging."""

from typing import Any

_MANAGERS: dict[str, Any] = {}


def remember(key: str, manager: Any) -> None:
    """Keep a guard manager under ``key`` for as long as the session that found it is kept."""
    _MANAGERS[key] = manager


def forget(prefix: str) -> None:
    """Drop the guard managers whose keys begin with ``prefix``."""
    for key in [key for key in _MANAGERS if key.startswith(prefix)]:
        del _MANAGERS[key]


def check(key: str, variables: dict[str, Any]) -> bool:
    """Return whether the guards under ``key`` accept a frame's local variables.

    Raises:
        RuntimeError: if the compilation is not alive in this process.
    """
    manager = _MANAGERS.get(key)
    if manager is None:
        raise RuntimeError(
            f"the guards {key!r} live in the process that compiled them; here they can only be read"
        )
    return bool(manager.check(variables))
