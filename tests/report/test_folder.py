import json

import pytest

from tests.report.sample_run import write_sample_run
from torchard.core.errors import FileRefusedError, UsageError
from torchard.report.folder import mapping, number, objects, printable, read_run, text, texts


def test_what_has_run_is_read_and_the_rest_is_empty(tmp_path):
    record = read_run(write_sample_run(tmp_path, stages=("rank",)))
    assert record.rank["chosen"] == "tf_efficientnet_lite0"
    assert record.tune == {}
    assert record.metrics == ()


def test_a_torn_last_line_of_metrics_is_passed_over(tmp_path):
    write_sample_run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(read_run(tmp_path).metrics) == len(lines) - 1


@pytest.mark.parametrize("folder", ["missing", "."])
def test_what_is_no_run_folder_is_refused(tmp_path, folder):
    with pytest.raises(UsageError, match="fit"):
        read_run(tmp_path / folder)


def test_a_damaged_stage_is_refused_by_name(tmp_path):
    write_sample_run(tmp_path)
    (tmp_path / "rank.json").write_text("{")
    with pytest.raises(FileRefusedError, match="rank"):
        read_run(tmp_path)


@pytest.mark.parametrize("value", [True, "7", None, [7], {}, 10**400, float("nan")])
def test_only_finite_numbers_are_numbers(value):
    assert number({"a": {"b": value}}, "a", "b") is None


def test_paths_through_what_is_no_object_end_in_nothing():
    value = {"a": [1, 2]}
    assert number(value, "a", "b") is None
    assert mapping(value, "a") == {}
    assert text(value, "a", default="none") == "none"
    assert objects({"a": [{"b": 1}, 3, "x"]}, "a") == [{"b": 1}]
    assert texts({"a": ["x", 3, None, {}]}, "a") == ["x", "3"]


def test_names_that_are_no_unicode_can_be_written(tmp_path):
    assert json.dumps(printable("caf\udce9"), ensure_ascii=False).encode() == b'"caf\\\\udce9"'
