"""core.run: one process per folder, nothing computed twice, nothing written where it should not be."""

import errno
import json
import math
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchard.core import run
from torchard.core.errors import FileRefusedError, RunLockedError, UsageError
from torchard.core.run import RunFolder, content_key

SETTINGS = {"format": 1, "data": "digits", "seed": 0, "created": "2026-01-01"}


def in_child(work) -> str:
    """What ``work`` returns, or the name of its error, from a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def test_a_new_folder_holds_its_settings_and_is_found_again(tmp_path):
    path = tmp_path / "new" / "run"
    with RunFolder.open(path, SETTINGS) as folder:
        assert folder.settings == SETTINGS
        assert folder.previous is None
    assert json.loads((path / "torchard.json").read_text()) == SETTINGS
    with RunFolder.open(path) as folder:
        assert folder.settings == folder.previous == SETTINGS


def test_an_empty_folder_is_taken(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        assert folder.path == tmp_path


def test_new_settings_replace_old_ones_but_the_day_of_creation_stays(tmp_path):
    RunFolder.open(tmp_path, SETTINGS).close()
    with RunFolder.open(tmp_path, SETTINGS | {"seed": 1, "created": "2027-01-01"}) as folder:
        assert folder.settings == SETTINGS | {"seed": 1}
        assert folder.previous == SETTINGS
    assert RunFolder.view(tmp_path).settings["seed"] == 1


def test_settings_that_must_agree_are_compared(tmp_path):
    RunFolder.open(tmp_path, SETTINGS).close()
    with pytest.raises(UsageError, match="data='digits', not 'mnist'"):
        RunFolder.open(tmp_path, SETTINGS | {"data": "mnist"}, same=("data", "seed"))
    assert RunFolder.view(tmp_path).settings == SETTINGS
    RunFolder.open(tmp_path, SETTINGS, same=("data", "seed")).close()


def test_without_resume_a_run_is_left_alone(tmp_path):
    RunFolder.open(tmp_path, SETTINGS, resume=False).close()
    with pytest.raises(UsageError, match="already holds a run"):
        RunFolder.open(tmp_path, SETTINGS, resume=False)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="no torchard run") as caught:
        RunFolder.open(tmp_path, SETTINGS)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "where", ["missing", "empty", "file", "file/below", "n" * 300, "a\0b", "deep/" + "n" * 300]
)
def test_nothing_is_created_where_there_can_be_no_run(tmp_path, where):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    settings = None if where in ("missing", "empty") else SETTINGS
    with pytest.raises(UsageError) as caught:
        RunFolder.open(tmp_path / where, settings)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_folder_one_may_not_write_to_is_refused(tmp_path):
    parent = tmp_path / "parent"
    own = parent / "own"
    own.mkdir(parents=True)
    for folder in (own, parent, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o555 if folder in (own, parent) else 0o755)

    def attempt(path):
        if os.getuid() == 0:
            os.setuid(65534)  # root may write anywhere
        RunFolder.open(path, SETTINGS)

    for path in (own, parent / "new", parent / "new" / "deeper"):
        answer = in_child(lambda path=path: attempt(path))
        assert answer.startswith("UsageError: Cannot use")
        assert "Permission denied" in answer
    assert list(parent.rglob("*")) == [own]


def test_a_full_disk_leaves_no_folder_behind(tmp_path):
    def attempt():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        RunFolder.open(tmp_path / "a" / "b", {"note": "x" * 1000})

    answer = in_child(attempt)
    assert answer.startswith("OSError: No space to write")
    assert "bytes needed" in answer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("marker", ["{", '{"a": NaN}', "[" * 100_000])
def test_a_damaged_marker_is_refused(tmp_path, marker):
    (tmp_path / "torchard.json").write_text(marker)
    for call in (lambda: RunFolder.open(tmp_path, SETTINGS), lambda: RunFolder.view(tmp_path)):
        with pytest.raises(FileRefusedError):
            call()
    assert (tmp_path / "torchard.json").read_text() == marker


def test_a_marker_of_another_format_is_refused(tmp_path):
    (tmp_path / "torchard.json").write_text('{"format": 2}')
    with pytest.raises(UsageError, match="newer"):
        RunFolder.open(tmp_path, SETTINGS)


def test_a_second_process_is_told_the_first_ones_number(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS):
        answer = in_child(lambda: RunFolder.open(tmp_path, SETTINGS))
        assert answer.startswith("RunLockedError")
        assert f"process {os.getpid()};" in answer
        assert in_child(lambda: RunFolder.view(tmp_path).settings) == str(SETTINGS)
    assert in_child(lambda: RunFolder.open(tmp_path, SETTINGS).settings) == str(SETTINGS)


def test_the_same_process_cannot_open_a_run_twice(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS), pytest.raises(RunLockedError):
        RunFolder.open(tmp_path, SETTINGS)


def test_the_lock_of_a_killed_process_is_free_even_if_its_children_live(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        RunFolder.open(tmp_path, SETTINGS)
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        os.write(writer, f"{grandchild}\n".encode())
        signal.pause()
    grandchild = int(os.read(reader, 20))
    try:
        with pytest.raises(RunLockedError, match=f"process {child};"):
            RunFolder.open(tmp_path, SETTINGS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        RunFolder.open(tmp_path, SETTINGS).close()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def test_a_start_killed_before_its_marker_was_written_does_not_block(tmp_path):
    (tmp_path / "torchard.lock").write_text("123\n")
    (tmp_path / ".torchard-ab.tmp").write_text("half")
    RunFolder.open(tmp_path, SETTINGS).close()
    assert sorted(os.listdir(tmp_path)) == ["torchard.json", "torchard.lock"]


def test_results_are_read_and_written_by_name(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        assert folder.read("data") is None
        folder.write("data", {"a": [1, 2]})
        assert folder.read("data") == {"a": [1, 2]}
        with pytest.raises(ValueError, match="JSON"):
            folder.write("data", {"a": math.nan})
        assert folder.read("data") == {"a": [1, 2]}


@pytest.mark.parametrize("name", ["", "../x", "/x", "a/b", "torchard", ".x", "a\n", "x" * 200])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with RunFolder.open(tmp_path, SETTINGS) as folder, pytest.raises(ValueError, match="cannot name"):
        folder.write(name, {})


def test_a_closed_or_viewed_folder_cannot_be_written(tmp_path):
    folder = RunFolder.open(tmp_path, SETTINGS)
    folder.close()
    folder.close()
    for closed in (folder, RunFolder.view(tmp_path)):
        with pytest.raises(RuntimeError, match="closed"):
            closed.write("a", {})
        with pytest.raises(RuntimeError, match="closed"):
            closed.log(a=1)
        with pytest.raises(RuntimeError, match="closed"):
            closed.cached("a", {}, dict)


class Counted:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_cached_computes_once_per_key(tmp_path):
    compute = Counted({"rows": (1, 2), "x": 0.1})
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        first = folder.cached("rank", {"a": 1, "b": 2}, compute)
        assert first == {"rows": [1, 2], "x": 0.1}
        assert folder.cached("rank", {"b": 2, "a": 1}, compute) == first
        assert folder.read("rank") == first
        assert compute.calls == 1
        folder.cached("rank", {"a": 1, "b": 3}, compute)
        assert compute.calls == 2
        folder.cached("rank", {"a": 1, "b": 2}, compute)
        assert compute.calls == 3


def test_cached_leaves_the_old_result_when_computing_fails(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        folder.cached("rank", {"a": 1}, lambda: {"x": 1})
        with pytest.raises(KeyError):
            folder.cached("rank", {"a": 2}, lambda: {}["missing"])
        assert folder.read("rank") == {"x": 1}
        assert folder.cached("rank", {"a": 1}, lambda: {"x": 2}) == {"x": 1}


def test_cached_computes_again_when_a_file_it_wrote_changed_or_went(tmp_path):
    path, calls = tmp_path / "model.bin", []

    def compute():
        calls.append(1)
        path.write_text("weights")
        return {"x": 1}

    with RunFolder.open(tmp_path, SETTINGS) as folder:
        for change, expected in (
            (str, 1),
            (str, 1),
            (lambda: path.write_text("Weights"), 2),
            (path.unlink, 3),
        ):
            change()
            assert folder.cached("tune", {}, compute, files=["model.bin"]) == {"x": 1}
            assert len(calls) == expected
        with pytest.raises(FileNotFoundError, match=r"other\.bin"):
            folder.cached("prune", {}, compute, files=["model.bin", "other.bin"])
        assert folder.read("prune") is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(value=json_values)
def test_content_key_ignores_the_order_of_keys_and_nothing_else(value):
    def reversed_(item):
        if isinstance(item, dict):
            return {key: reversed_(item[key]) for key in reversed(item)}
        return [reversed_(inner) for inner in item] if isinstance(item, list) else item

    assert content_key(value) == content_key(reversed_(value))
    assert content_key([value]) != content_key([value, None])


def test_content_key_is_the_hash_of_canonical_json():
    # printf '{"a":[1,2],"b":null}' | sha256sum
    expected = "f25109c4111335e4a32d49373585e7a788ff5b10e70023f7004b170e7f84716a"
    assert content_key({"b": None, "a": [1, 2]}) == content_key({"a": (1, 2), "b": None}) == expected
    with pytest.raises(TypeError):
        content_key({"a": Path("x")})
    with pytest.raises(ValueError, match="JSON"):
        content_key(math.nan)


def without_time(entries):
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries]


def test_log_appends_lines_that_are_strict_json(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        folder.log(
            loss=math.nan,
            lr=np.float32(0.5),
            scores=torch.tensor([1.0, math.inf]),
            name="a\nb",
            n=np.int64(3),
        )
        folder.log(nested={"a": (1, -math.inf)})
        assert without_time(folder.metrics()) == [
            {"loss": None, "lr": 0.5, "scores": [1.0, None], "name": "a\nb", "n": 3},
            {"nested": {"a": [1, None]}},
        ]
        assert all("time" in entry for entry in folder.metrics())
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_a_torn_last_line_is_dropped_when_the_run_is_opened_again(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        folder.log(step=1)
        folder.log(step=2)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        with RunFolder.open(tmp_path) as folder:
            folder.log(step=3)
            assert [entry["step"] for entry in folder.metrics()] == [
                *range(1, 1 + whole[:keep].count(b"\n")),
                3,
            ]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    def attempt():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        folder = RunFolder.open(tmp_path, {})
        folder.log(step=1)
        limit = (tmp_path / "metrics.jsonl").stat().st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        folder.log(step=2)

    answer = in_child(attempt)
    assert answer.startswith("OSError: No space to write")
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 1
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"\n")


def test_rewind_drops_what_the_stage_will_make_again_and_nothing_else(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        tune, probe = folder.stage("tune", "full"), folder.stage("tune", "probe")
        folder.log(step=9)
        for step in range(4):
            tune.log(step=step)
            probe.log(step=step)
        tune.sync()
        tune.rewind(4)
        assert len(folder.metrics()) == 9
        tune.rewind(2)
        lines = [(entry.get("phase"), entry["step"]) for entry in folder.metrics()]
        assert lines == [
            (None, 9),
            ("full", 0),
            ("probe", 0),
            ("full", 1),
            ("probe", 1),
            ("probe", 2),
            ("probe", 3),
        ]
        tune.rewind(0)
        assert {entry.get("phase") for entry in folder.metrics()} == {None, "probe"}
        folder.stage("prune").rewind(0)
        assert len(folder.metrics()) == 5


def test_stages_keep_separate_checkpoints(tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        paths = {folder.stage(name, phase).checkpoint for name in ("tune", "prune") for phase in ("a", "b")}
        assert len(paths) == 4
        assert {path.parent for path in paths} == {tmp_path}
        with pytest.raises(ValueError, match="cannot name"):
            folder.stage("../tune")


def test_a_lock_the_file_system_does_not_know_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run.fcntl, "flock", refuse)
    with pytest.raises(UsageError, match="No locks available"):
        RunFolder.open(tmp_path / "run", SETTINGS)
    assert list(tmp_path.iterdir()) == []
