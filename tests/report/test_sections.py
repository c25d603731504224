from pathlib import Path

import pytest

from tests.report.sample_run import CELLS, write_sample_run
from torchard.report.folder import RunRecord, read_run
from torchard.report.sections import MATRIX_CLASSES, choices, examined, headline, ranking, sections, spent


@pytest.fixture
def record(tmp_path) -> RunRecord:
    return read_run(write_sample_run(tmp_path))


def with_test(**pruned) -> RunRecord:
    classes = pruned.pop("classes", list(CELLS))
    return RunRecord(path=Path(), settings={}, test={"pruned": pruned, "classes": classes})


def test_tiles_show_what_it_costs_and_what_it_cost(record):
    tiles = {tile["name"]: tile for tile in headline(record)["tiles"]}
    assert tiles["Accuracy, test"]["value"].startswith("88.1")
    assert tiles["MACs per image"]["before"].endswith("400\N{NARROW NO-BREAK SPACE}M")
    assert tiles["Latency, one image"]["value"].startswith("4.60")
    assert tiles["ONNX file"]["step"].startswith("−61")


def test_without_an_exported_file_of_both_the_weights_are_compared(tmp_path):
    record = read_run(write_sample_run(tmp_path, stages=("data", "prune")))
    tiles = {tile["name"]: tile for tile in headline(record)["tiles"]}
    assert tiles["Weights"]["value"].startswith("5.40")
    assert tiles["Latency, one image"]["before"].startswith("before: 14.2")


def test_the_standard_error_is_the_binomial_one(record):
    (tile,) = [tile for tile in headline(record)["tiles"] if tile["spread"]]
    assert tile["spread"] == "± 1.3"  # sqrt(0.881 · 0.119 / 656)


def test_before_testing_the_validation_score_is_shown_and_named_so(tmp_path):
    record = read_run(write_sample_run(tmp_path, stages=("data", "rank", "tune")))
    (tile,) = headline(record)["tiles"]
    assert tile["name"] == "Accuracy, validation"
    assert tile["value"].startswith("88.9")


def test_a_missed_target_is_said(tmp_path):
    record = RunRecord(path=tmp_path, settings={}, prune={"reached": False, "target": {"macs": "0.01x"}})
    assert headline(record)["missed"]
    assert headline(record)["target"] == "0.01x MACs"


def test_the_chosen_model_is_marked_and_no_other(record):
    assert [row["model"] for row in ranking(record)["rows"] if row["chosen"]] == ["tf_efficientnet_lite0"]


def test_the_chosen_way_is_called_best_only_if_no_other_had_a_higher_metric(record):
    def told(*scores: float) -> str:
        rows = [{"name": str(score), "validation": {"accuracy": score}} for score in scores]
        tune = {"chosen": "0.8", "validation": {"accuracy": 0.8}, "candidates": rows}
        (line,) = choices(RunRecord(path=Path(), settings={}, tune=tune))["lines"]
        return line[2]

    assert told(0.7, 0.8).startswith("best of 2 on the validation images: accuracy 80.0")
    assert told(0.9, 0.8).startswith("chosen of 2 on the validation images: accuracy 80.0")
    assert told(0.8).startswith("on the validation images")


def test_no_two_stages_share_a_colour(record):
    steps = [bar["step"] for bar in spent(record)["bars"]]
    assert len(set(steps)) == len(steps) >= 5


def test_shares_of_the_matrix_are_of_the_true_class():
    shown = examined(with_test(confusion=[[9, 1], [2, 2]]))["matrix"]
    assert [[cell["share"] for cell in row] for row in shown] == [[0.9, 0.1], [0.5, 0.5]]


def test_confused_pairs_come_most_frequent_first():
    pairs = examined(with_test(confusion=[[9, 1], [2, 2]]))["pairs"]
    assert [(pair["true"], pair["predicted"], pair["count"]) for pair in pairs] == [
        ("defective", "functional", 2),
        ("functional", "defective", 1),
    ]


def test_many_classes_get_pairs_and_the_weakest_instead_of_a_matrix():
    n = MATRIX_CLASSES + 1
    matrix = [[10 if row == column else 0 for column in range(n)] for row in range(n)]
    matrix[3][3], matrix[3][4] = 1, 9
    per_class = {f"c{k}": {"count": 10, "recall": matrix[k][k] / 10} for k in range(n)}
    shown = examined(with_test(confusion=matrix, per_class=per_class, classes=list(per_class)))
    assert shown["matrix"] is None
    assert shown["pairs"][0]["true"] == "c3"
    assert shown["weakest"][0] == {"name": "c3", "images": 10, "recall": 0.1}


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1], [2]], "x", [[1, 2], 3], None])
def test_a_matrix_of_another_shape_is_not_shown(matrix):
    assert examined(with_test(confusion=matrix))["matrix"] is None


@pytest.mark.parametrize(
    "picture",
    [
        "javascript:alert(1)",
        "http://x/y.jpg",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,AAAA" onerror=x',
        "data:image/png;base64," + "A" * 300_000,
        7,
    ],
)
def test_only_small_raster_data_becomes_a_thumbnail(picture):
    (shown,) = examined(with_test(mistakes=[{"name": "a", "thumbnail": picture}]))["mistakes"]
    assert shown["thumbnail"] is None


def test_time_that_no_stage_accounts_for_is_shown(record):
    shown = spent(record)
    assert sum(bar["seconds"] for bar in shown["bars"]) == pytest.approx(shown["total"])
    assert sum(bar["width"] for bar in shown["bars"]) == pytest.approx(100 * 551.9 / 600)


JUNK = [None, 3, "x", [], [1], {}, {"a": 1}, [{"a": []}], True]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_values_of_the_wrong_type_are_unknown_not_an_error(record, junk):
    for stage in ("settings", "data", "rank", "tune", "prune", "export", "test", "timing"):
        for key in getattr(record, stage):
            spoilt = {**getattr(record, stage), key: junk}
            sections(RunRecord(**{**vars(record), stage: spoilt, "metrics": ({"step": junk, "loss": junk},)}))
