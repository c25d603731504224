"""The few exceptions users meet, each also the built-in error it resembles.

The command line turns them into one line and an exit code; a traceback is shown with ``--debug`` only.
"""


class UsageError(ValueError):
    """The call itself is wrong: a missing folder, an unknown option value (exit code 2)."""

    exit_code = 2


class DataError(ValueError):
    """The data are refused: one class, too few images, too many unreadable files (exit code 4)."""

    exit_code = 4


class FileRefusedError(ValueError):
    """A file is damaged, of the wrong kind, too large, or belongs to another model; nothing was changed."""

    exit_code = 1


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = 1


class RunLockedError(RuntimeError):
    """Another process is working in this run folder."""

    exit_code = 1


class DivergedError(FloatingPointError):
    """Training produced NaN or infinity; the last good checkpoint is kept."""

    exit_code = 1


class ExportMismatchError(RuntimeError):
    """An exported model answers differently from the eager one; the file is kept as ``.rejected``."""

    exit_code = 1


class InterruptedRunError(KeyboardInterrupt):
    """The user or the scheduler asked to stop; state was saved and the run can be resumed (exit code 130)."""

    exit_code = 130
