"""``torchard hub`` lists and shows models without reading a weight."""

import json

import pytest

from torchard.cli import main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["hub", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_shows_the_packaged_models_first(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert out.splitlines()[0].split() == ["model", "source", "params", "[M]", "input", "[px]", "here"]
    assert out.splitlines()[1].split()[:4] == ["tf_efficientnet_lite0", "packaged", "4.65", "224"]
    assert out.splitlines()[-1].endswith("Next: torchard rank DATA")


def test_list_cuts_what_nobody_reads_but_json_has_all(capsys):
    code, out, _ = run(capsys, "list", "--source", "timm")
    assert code == 0
    assert len(out.splitlines()) == 62
    assert "more; a pattern" in out
    code, out, _ = run(capsys, "list", "--source", "timm", "--json")
    assert len(json.loads(out)["models"]) > 1000


def test_a_pattern_that_matches_nothing_is_wrong_use_as_in_methods(capsys):
    code, out, err = run(capsys, "list", "no-such-model")
    assert (code, out) == (2, "")
    assert err.startswith("error: No model matches 'no-such-model'.")


def test_what_is_shown_fits_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (("list",), ("show", "mobilenetv2_100")):
        _, out, _ = run(capsys, *arguments)
        lines = out.splitlines()
        assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert '  model = hub.load("mobilenetv2_100", num_classes=2)' in lines


def test_show_tells_costs_and_input(capsys):
    code, out, _ = run(capsys, "show", "mobilenetv2_100")
    assert code == 0
    assert "2.22 M parameters, 299 M MACs" in out
    assert "Sees: 224×224 pixels, bilinear" in out
    assert 'hub.load("mobilenetv2_100", num_classes=2)' in out
    code, out, _ = run(capsys, "show", "mobilenetv2_100", "--json")
    assert json.loads(out)["input"]["size"] == [224, 224]


@pytest.mark.parametrize("arguments", [("show", "nonsense"), ("list", "--source", "nowhere")], ids=str)
def test_wrong_use_is_one_line_and_code_2(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
