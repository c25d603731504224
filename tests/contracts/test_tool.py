"""What every tool keeps to: it says something, says the same again, and leaves the process as it was."""

import os
import sys
import warnings

import pytest

from tests.contracts.cases import ToolCase, case, entries


@pytest.fixture(params=entries("tool"), ids=lambda entry: entry.path)
def tool(request) -> ToolCase:
    return case(request.param, "tool")


def surroundings() -> tuple[object, ...]:
    streams = (sys.stdout, sys.stderr, sys.gettrace(), sys.excepthook)
    return (os.getcwd(), dict(os.environ), list(warnings.filters), *streams)


def test_it_says_something_and_the_same_again(tool):
    shown = tool.run()
    assert shown.strip()
    assert tool.run() == shown


def test_it_leaves_the_process_as_it_was(tool):
    before = surroundings()
    tool.run()
    assert surroundings() == before
