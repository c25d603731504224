"""Verbs are found by looking at the files; nothing is imported for the list."""

from pathlib import Path

import pytest

from torchard.cli.verbs import verbs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "fit.py": '"""Fit it.\n\nAll of it."""\nimport not_there\n\ndef command():\n    ...\n',
        "list_.py": '"""List them."""\n\ndef command() -> None:\n    ...\n',
        "dry_run.py": "def command(): ...\n",
        "console.py": '"""No verb."""\n\ndef commands(): ...\n',
        "inner.py": "class Frame:\n    def command(self): ...\n",
        "hub/__init__.py": '"""Look into the hub."""\n',
        "hub/show.py": '"""Show one."""\n\ndef command(): ...\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_verb_is_a_file_that_defines_command(folder):
    assert list(verbs(folder, "package")) == ["dry-run", "fit", "hub", "list"]


def test_its_summary_is_the_first_line_of_its_docstring(folder):
    found = verbs(folder, "package")
    assert found["fit"].summary == "Fit it."
    assert found["fit"].module == "package.fit"
    assert found["dry-run"].summary == ""


def test_a_folder_is_a_group(folder):
    group = verbs(folder, "package")["hub"]
    assert (group.summary, group.folder) == ("Look into the hub.", folder / "hub")
    assert list(verbs(group.folder, group.module)) == ["show"]
