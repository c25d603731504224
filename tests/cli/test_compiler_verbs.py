"""torchard decompile and torchard explain, as typed."""

import json

import pytest
import torch

from torchard.cli.app import main

SCRIPT = """
import sys
import torch

def f(x):
    y = x * 2
    print("half way")
    return y + 1

g = torch.compile(f)
g(torch.ones(int(sys.argv[1])))
"""


def test_decompile_prints_source(capsys):
    assert main(["decompile", "textwrap:indent", "--check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "# textwrap:indent: structured, identical\ndef indent(text, prefix, predicate=None):\n"
    )
    compile(out, "out", "exec")


def test_decompile_speaks_json(capsys):
    assert main(["decompile", "json.decoder:JSONDecoder.decode", "--json", "--strategy", "dispatch"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["strategy"], facts["target"]) == ("dispatch", "json.decoder:JSONDecoder.decode")


@pytest.mark.parametrize(
    "target", ["textwrap", "textwrap:", "no_such_module:f", "textwrap:nothing", "builtins:len"]
)
def test_bad_targets_exit_2_with_one_line(target, capsys):
    assert main(["decompile", target]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_explain_runs_a_script_and_tells(tmp_path, capsys, monkeypatch):
    torch.compiler.reset()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "dump"
    assert main(["explain", str(script), "--out", str(out), "--backend", "eager", "--", "4"]) == 0
    told = capsys.readouterr().out
    assert "graph break in f, line 7" in told
    assert (out / "index.md").is_file()
    torch.compiler.reset()
    assert (
        main(
            [
                "explain",
                str(script),
                "--out",
                str(tmp_path / "b"),
                "--backend",
                "eager",
                "--diff",
                str(out),
                "--",
                "4",
            ]
        )
        == 0
    )
    assert "no difference" in capsys.readouterr().out


def test_explain_refuses_what_is_not_there(tmp_path, capsys):
    assert main(["explain", str(tmp_path / "none.py")]) == 2
    script = tmp_path / "script.py"
    script.write_text("x = 1")
    assert main(["explain", str(script), "--diff", str(tmp_path)]) == 2
    assert "index.json" in capsys.readouterr().err
