"""export, predict, report and serve as they are typed."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.export.models import CLASSES, SPEC, small_net
from tests.report.sample_run import write_sample_run
from torchard.cli import main
from torchard.export.onnx import export_onnx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "white")]
    images[0].save(folder / "red.png")
    export_onnx(small_net(), folder / "model.onnx", spec=SPEC, classes=CLASSES, images=images)
    return folder


def test_predict_shows_a_line_an_image_with_nothing_that_steers_the_terminal(run, capsys):
    assert main(["predict", str(run), str(run / "red.png"), "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "red.png" in out
    assert "confidence [%]" in out
    assert 'p"ear\\n<b>' in out
    assert len(out.splitlines()) == 4


def test_predict_as_json_says_the_same(run, capsys):
    assert main(["predict", str(run), str(run / "red.png"), "--top", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row["label"] == row["predictions"][0]["label"]
    assert len(row["predictions"]) == 2


def test_predict_goes_on_after_a_file_that_is_no_image(run, tmp_path, capsys):
    (tmp_path / "page.jpg").write_text("<html>")
    assert main(["predict", str(run), str(tmp_path / "page.jpg"), str(run / "red.png"), "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)["images"]
    assert "error" in first
    assert "label" in second


@pytest.mark.parametrize(
    "line", ["predict nowhere x.png", "report nowhere", "serve nowhere", "export nowhere"]
)
def test_a_folder_that_is_not_there_is_one_line_and_exit_code_2(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "nowhere" in err
    assert not list(tmp_path.iterdir())


def test_predict_report_and_serve_work_where_there_is_no_torch(run, tmp_path):
    write_sample_run(tmp_path / "run")
    predict = ["predict", str(run), str(run / "red.png")]
    report, serve = ["report", str(tmp_path / "run")], ["serve", str(run), "--port", "99999"]
    program = (
        "import sys; sys.modules['torch'] = None; from torchard.cli import main;"
        f"sys.exit([main(line) for line in {[predict, report, serve]}] != [0, 0, 2])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_export_shows_the_files_and_what_the_model_costs_before_and_after_pruning(capsys, monkeypatch):
    checked = {"bytes": 3_970_000, "images": 32, "max_abs_diff": 1.1e-5, "labels_equal": True}
    costs = {"params": 2_230_000, "macs": 299_000_000, "bytes": 9_040_000, "latency_ms": 21.1}
    facts = {
        "model": "pruned",
        "folder": "runs/cells",
        "onnx": {**checked, "file": "model.onnx", "latency_ms": {"median": 2.8, "p95": 7.0}},
        "pt2": {**checked, "file": "model.pt2"},
        "eager": {"bytes": 4_070_000, "latency_ms": {"median": 15.9, "p95": 17.0}},
        "before": costs,
        "after": {**costs, "params": 995_000, "macs": 149_000_000},
    }
    monkeypatch.setattr("torchard.pipeline.export_run.export_run", lambda run, **options: facts)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["export", "runs/cells"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines]
    assert ["model.onnx", "3.97", "32", "all", "equal", "0.000011"] in words
    assert ["before", "pruning", "2.23", "299", "9.0", "21.10"] in words
    assert ["after", "pruning", "0.99", "149", "9.0", "21.10"] in words
    assert main(["export", "runs/cells", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == facts


def test_report_prints_its_path(tmp_path, capsys):
    write_sample_run(tmp_path / "run", stages=("rank",))
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"].endswith("report.html")
    assert told["bytes"] == (tmp_path / "run" / "report.html").stat().st_size
