"""prepare_debug: results as before, everything on disk, nothing left behind; debug stops where it says."""

import ast
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.compiler import programs
from torchard.compiler import depyf
from torchard.compiler.dynamo import compat, session
from torchard.compiler.dynamo.explain import compare
from torchard.compiler.dynamo.records import clean_names, frame_name, safe_name

FEW = (
    "break_on_print",
    "closure",
    "without_gradients",
    "module",
    "data_dependent",
    "ternary",
    "free_variable",
)


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def dump(folder, function, calls, backend="eager"):
    expected = programs.call(function, calls)
    with depyf.prepare_debug(folder) as found:
        answer = programs.call(torch.compile(function, backend=backend), calls)
    assert programs.same(answer, expected)
    return found


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute:UserWarning"
)  # torch's own, on the way through a resume
@pytest.mark.parametrize(
    "program", [p for p in programs.programs() if p[0] in FEW], ids=lambda program: program[0]
)
def test_transformed_code_runs_from_its_file_with_unchanged_results(program, tmp_path):
    _, function, calls = program
    found = dump(tmp_path, function, calls)
    entries = [entry for frame in found.frames for entry in frame.entries]
    assert entries
    assert found.failures == []
    assert all(entry.executed for entry in entries), [(e.strategy, e.equivalence) for e in entries]
    for frame in found.frames:
        for cached in compat.cache_entries(frame.code):
            assert Path(cached.code.co_filename).is_relative_to(tmp_path.resolve())


def test_every_file_is_python_and_every_link_leads_somewhere(tmp_path):
    found = dump(
        tmp_path, programs.break_on_print, [((torch.ones(3),), {}), ((torch.ones(4),), {})], "aot_eager"
    )
    files = list(tmp_path.rglob("*.py"))
    for file in files:
        ast.parse(file.read_text())
    index = json.loads((tmp_path / "index.json").read_text())
    linked = [path for frame in index["frames"] for path in frame["files"].values()]
    linked += [
        path for frame in index["frames"] for entry in frame["entries"] for path in entry["files"].values()
    ]
    assert len(linked) > 15
    assert all((tmp_path / path).is_file() for path in linked)
    assert found.path("break_on_print", "graph_0/dynamo").read_text().startswith("class GraphModule")
    assert "recompile_0_1" in "".join(linked)
    assert "graph break" in found.path(programs.break_on_print, "original").read_text()
    assert "size mismatch" in found.summary()
    with pytest.raises(KeyError, match="graph_0/dynamo"):
        found.path("break_on_print", "nothing")
    with pytest.raises(KeyError, match="break_on_print"):
        found.entries("other")


def test_two_runs_write_the_same_files(tmp_path):
    names = []
    for folder in ("one", "two"):
        torch.compiler.reset()
        found = dump(tmp_path / folder, programs.plain, [((torch.ones(3),), {})])
        names.append(
            sorted(
                str(p.relative_to(found.directory))
                for p in found.directory.rglob("*.py")
                if "fx" not in p.parts
            )
        )
    assert names[0] == names[1]


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_is_left_behind(raises, tmp_path):
    from torch._dynamo import convert_frame
    from torch.fx import graph_module

    logger = logging.getLogger(compat.TRACE_LOGGER)
    before = (
        logger.level,
        list(logger.handlers),
        dict(convert_frame._bytecode_hooks),
        vars(graph_module._loader).get("cache"),
    )
    try:
        with depyf.prepare_debug(tmp_path):
            torch.compile(programs.plain, backend="eager")(torch.ones(2))
            if raises:
                raise KeyError("inside")
    except KeyError:
        pass
    after = (
        logger.level,
        list(logger.handlers),
        dict(convert_frame._bytecode_hooks),
        vars(graph_module._loader).get("cache"),
    )
    assert after == before
    assert session._open == []


def test_wrong_uses_are_told(tmp_path):
    with depyf.prepare_debug(tmp_path):
        torch.compile(programs.plain, backend="eager")(torch.ones(2))
        with pytest.raises(RuntimeError, match="already active"), depyf.prepare_debug(tmp_path):
            pass
        with pytest.raises(RuntimeError, match="inside"), depyf.debug(pause=False):
            pass
    with pytest.raises(FileExistsError, match="not empty"), depyf.prepare_debug(tmp_path, overwrite=False):
        pass
    with pytest.warns(UserWarning, match="saw no compilation"), depyf.prepare_debug(tmp_path / "empty"):
        pass


def test_ranks_write_to_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    found = dump(tmp_path, programs.plain, [((torch.ones(3),), {})])
    assert found.directory == tmp_path.resolve() / "rank_3"


def test_debug_runs_what_is_compiled_and_compiles_nothing(tmp_path):
    counter = torch._dynamo.testing.CompileCounter() if hasattr(torch._dynamo, "testing") else None
    compiled = torch.compile(programs.plain, backend="eager")
    with depyf.prepare_debug(tmp_path) as found:
        compiled(torch.ones(3))
    with depyf.debug(pause=False) as again:
        assert again is found
        assert torch.equal(compiled(torch.ones(3)), programs.plain(torch.ones(3)))
        compiled(torch.ones(7, dtype=torch.float64))
    assert len(compat.cache_entries(programs.plain.__code__)) == 1
    assert counter is None or counter.frame_count == 0


def test_guards_can_be_asked_while_they_live(tmp_path):
    from torchard.compiler.dynamo import files, live

    found = dump(tmp_path, programs.plain, [((torch.ones(3),), {})])
    frame = found.frames[0]
    key = files.guard_key(found, frame, frame.entries[0])
    assert live.check(key, {"x": torch.ones(3)})
    assert not live.check(key, {"x": torch.ones(3, dtype=torch.float64)})
    with pytest.raises(RuntimeError, match="live in the process"):
        live.check("nowhere", {})


PDB = """
import torch
from torchard.compiler import depyf


def f(x):
    y = x + 1
    print("between")
    return y * 2


compiled = torch.compile(f, backend="eager")
with depyf.prepare_debug("dump") as found:
    compiled(torch.ones(3))
transformed = found.path(f, "transformed_0")
graph = found.path(f, "graph_0/forward_0")
line = next(n for n, text in enumerate(graph.read_text().splitlines(), 1) if "+ 1" in text)
with open(".pdbrc", "w") as file:
    file.write(f"break {transformed}:2\\nbreak {graph}:{line}\\n")
with depyf.debug():
    compiled(torch.ones(3))
"""


def test_a_debugger_stops_in_the_transformed_file_and_in_the_graph_file(tmp_path):
    (tmp_path / "script.py").write_text(PDB)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    environment.pop("PYTHONBREAKPOINT", None)
    done = subprocess.run(
        [sys.executable, "script.py"], input="continue\nwhere\ncontinue\nwhere\ncontinue\ncontinue\n",
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120,
    )  # fmt: skip
    stops = [
        line for line in done.stdout.splitlines() if line.startswith("> ") or line.startswith("(Pdb) > ")
    ]
    assert any("transformed_0.py(2)" in line for line in stops), done.stdout + done.stderr
    assert any("forward_0.py" in line for line in stops), done.stdout + done.stderr


def test_explain_tells_graphs_and_breaks():
    told = depyf.explain(programs.break_on_print, torch.ones(3))
    assert len(told.graphs) == 2
    assert [name for name, _, _ in told.breaks] == ["break_on_print"]
    assert torch.equal(told.result, programs.break_on_print(torch.ones(3)))
    assert "Graph breaks" in str(told)


def test_two_dumps_differ_by_what_was_compiled_again(tmp_path):
    calls = [((torch.ones(size),), {}) for size in (3, 4)]
    dump(tmp_path / "once", programs.plain, calls[:1])
    torch.compiler.reset()
    dump(tmp_path / "twice", programs.plain, calls)
    told = compare(tmp_path / "once", tmp_path / "twice")
    assert told[0] == "- plain: 1 compilations, 1 graphs"
    assert told[1] == "+ plain: 2 compilations, 2 graphs"
    assert told[2].startswith("+ plain: compiled again (1): ")
    assert "size mismatch" in told[2]
    assert compare(tmp_path / "once", tmp_path / "once") == ["no difference"]


def test_records_of_an_unknown_kind_are_kept(tmp_path):
    found = session.Session(tmp_path, kernels=True, bytecode=False)
    where = {"frame_id": 0, "frame_compile_id": 0, "attempt": 0, "has_payload": "md5"}
    found.on_trace({**where, "kind_of_tomorrow": {}}, "what it says")
    found.on_trace({**where, "chromium_event": {}}, "when it happened")
    found.on_trace({**where, "dynamo_start": {}}, "")
    assert found._entry("0/0").other == {"kind_of_tomorrow": "what it says"}


def test_a_dispatcher_runs_one_entry():
    compiled = torch.compile(programs.plain, backend="eager")
    compiled(torch.ones(3))
    dispatcher = depyf.CodeDispatcher(programs.plain)
    assert len(dispatcher.compiled_codes) == 1
    original = programs.plain.__code__
    with dispatcher.use(0) as function:
        assert function.__code__ is not original
        assert torch.equal(function(torch.ones(3)), torch.full((3,), 2.0))
    assert programs.plain.__code__ is original
    with pytest.raises(IndexError, match="1 compiled entries"), dispatcher.use(1):
        pass


def test_the_bytecode_log_is_joined_by_source(caplog):
    logger = logging.getLogger(compat.BYTECODE_LOGGER)
    depyf.install()
    depyf.install()
    try:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(caplog.handler)
        torch.compile(programs.plain, backend="eager")(torch.ones(3))
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(logging.NOTSET)
        depyf.uninstall()
    told = [record.getMessage() for record in caplog.records if "DECOMPILED" in record.getMessage()]
    assert len(told) == 1
    assert "def plain(x)" in told[0]
    with pytest.raises(ValueError, match="no logging level"):
        depyf.install("loud")


def test_names_stay_inside_the_folder_and_lose_their_random_part():
    assert safe_name("../../x") == "x"
    assert safe_name("") == "code"
    text = "__compiled_fn_2_c33ea4e5_df37_4aca_9766_2c1b3413095c(x)"
    assert clean_names(text) == ("__compiled_fn_2(x)", {"__compiled_fn_2": text[:-3]})
    code = compile("def torch_dynamo_resume_in_f_at_13(): pass", "t", "exec").co_consts[0]
    assert frame_name(code) == ("f__resume_L13", "f")


def test_an_unproved_entry_is_a_reading_copy(tmp_path, monkeypatch):
    from torchard.compiler.decompile import Decompiled
    from torchard.compiler.dynamo import transformed

    source = textwrap.dedent("def plain(x):\n    return x\n")
    monkeypatch.setattr(
        transformed, "decompile_code", lambda code: Decompiled(source, "dispatch", "unverified")
    )
    found = dump(tmp_path, programs.plain, [((torch.ones(3),), {})])
    assert not found.frames[0].entries[0].executed
    assert found.path(programs.plain, "transformed_0").read_text().startswith("# Reading copy, not executed")
