"""The command line: one file a verb, found by looking, loaded when called."""

from torchard.cli.app import main

__all__ = ["main"]
