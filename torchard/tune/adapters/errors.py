"""What can go wrong with adapters, each error also the built-in one it resembles."""

from torchard.core.errors import FileRefusedError


class UnreachableSiteError(ValueError):
    """A layer chosen for adaptation is never run, so its adapter could neither act nor learn."""


class NotMergeableError(ValueError):
    """An adapter cannot be folded into the weights of its layer exactly; nothing was changed."""


class AdapterMismatchError(FileRefusedError):
    """A stored adapter belongs to another model or method; nothing was changed."""


class NothingToSaveError(ValueError):
    """There is no adapter, or the method adds no numbers of its own."""
