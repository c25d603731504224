"""What the verbs print with."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchard.cli.console import (
    Column,
    Invocation,
    console,
    emit,
    print_line,
    print_table,
    progress,
    safe,
)

MODELS = [
    {"model": "tf_efficientnet_lite1", "score": 0.4118, "error": 0.0061, "params": 4_200_000},
    {"model": "mobilenetv2", "score": 0.4, "error": None, "params": None},
]
COLUMNS = [
    Column("model"),
    Column("score", "evidence", digits=3, spread="error"),
    Column("params", unit="M", scale=1e-6, digits=1),
]


def test_a_table_has_units_in_the_heads_and_numbers_to_the_right(capsys):
    print_table(MODELS, COLUMNS)
    assert capsys.readouterr().out.splitlines() == [
        "model                        evidence   params [M]",
        "tf_efficientnet_lite1   0.412 ± 0.006          4.2",
        "mobilenetv2                     0.400            -",
    ]


def test_a_line_that_wraps_leaves_no_blanks_at_its_ends(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    print_line("some words that are wrapped to several lines")
    print_line()
    print_table([{"word": "a", "text": "some words that are wrapped"}], [Column("word"), Column("text")])
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert lines[:4] == ["some words that are", "wrapped to several", "lines", ""]
    assert " ".join(lines[5:]).split() == ["a", "some", "words", "that", "are", "wrapped"]


def test_a_table_too_wide_for_the_terminal_becomes_records_that_lose_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(MODELS, COLUMNS)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["model       tf_efficientnet_lite1", "evidence    0.412 ± 0.006", "params [M]  4.2"]
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("width", [20, 30, 40, 50, 80])
def test_no_word_and_no_number_is_cut_at_any_width(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [{"image": "some words that can be wrapped", "sure": 31.25, "sd": 1.5}]
    print_table(rows, [Column("image"), Column("sure", "confidence", unit="%", digits=1, spread="sd")])
    out = capsys.readouterr().out
    assert "31.2 ± 1.5" in out
    assert {"some", "words", "that", "can", "be", "wrapped", "confidence", "[%]"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= width


def test_without_a_terminal_lines_are_not_broken_at_80_columns(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_line("word " * 20)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", ":smile:", "[link=javascript:alert(1)]a[/link]"])
def test_markup_in_names_is_text(capsys, name):
    print_table([{"name": name}], [Column("name")])
    print_line(name, style="bold")
    assert capsys.readouterr().out.count(name) == 2


def test_markup_is_text_also_for_a_verb_that_prints_by_itself(capsys):
    console().print("[red]a[/red] :smile:")
    progress().print("[red]a[/red] :smile:")
    assert capsys.readouterr() == ("[red]a[/red] :smile:\n",) * 2


@given(st.text())
def test_nothing_printed_can_steer_the_terminal(text):
    shown = safe(text)
    assert shown.isprintable()
    assert not set(shown) & {"\x1b", "\n", "\r", "\x07", "\x9b", "\u202e"}
    shown.encode("utf-8")  # no lone surrogates from undecodable file names


def test_safe_keeps_what_is_harmless():
    assert safe("Zelle Nr. 7 – größer ×2 🙂") == "Zelle Nr. 7 – größer ×2 🙂"
    assert safe("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (True, "yes"),
        (False, "no"),
        (7, "7"),
        (0.5, "0.500"),
        (["a", 1], "a, 1"),
        (Path("x/y"), "x/y"),
    ],
)
def test_a_cell_says(value, shown):
    assert Column("key").cell({"key": value}) == shown


def emitted(facts: dict[str, object], *, as_json: bool) -> str:
    stdout = io.StringIO()
    with click.Context(click.Command("x"), obj=Invocation(json=as_json, write=stdout.write)):
        emit(facts, lambda seen: print(*sorted(seen), file=stdout))
    return stdout.getvalue()


def test_emit_renders_for_a_person_and_dumps_for_a_program():
    @dataclass
    class Budget:
        macs: float

    facts = {
        "path": Path("a"),
        "budget": Budget(2.0),
        "nan": float("nan"),
        "rows": [{"x": (1, float("inf"))}],
    }
    assert emitted(facts, as_json=False) == "budget nan path rows\n"
    assert json.loads(emitted(facts, as_json=True)) == {
        "path": "a",
        "budget": {"macs": 2.0},
        "nan": None,
        "rows": [{"x": [1, None]}],
    }


def test_emit_refuses_what_is_no_json_value():
    with pytest.raises(TypeError, match="object"):
        emitted({"x": object()}, as_json=True)


def test_json_survives_names_that_utf8_cannot_write():
    assert json.loads(emitted({"name": "a\udcff"}, as_json=True)) == {"name": "a\udcff"}
    assert emitted({"name": "a\udcff"}, as_json=True).isascii()
