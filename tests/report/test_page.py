import re
from html.parser import HTMLParser

import pytest

from tests.chromium import needs_chromium, visit
from tests.report.sample_run import HOSTILE, STAGES, settings, write_sample_run
from torchard.report.folder import RunRecord, read_run
from torchard.report.page import render, write_report
from torchard.report.sections import sections

ELEMENTS_THAT_RUN_OR_LOAD = {
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "video",
    "audio",
    "a",
}


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def run(tmp_path):
    return write_sample_run(tmp_path / "run")


@pytest.mark.parametrize(
    "words",
    [
        "Solar cells",
        "88.1",
        "197",
        "Tied with tf_efficientnet_lite1",
        "Confusions",
        "Most confidently wrong",
        "mono",
        "SSF",
        "truncated file",
        "--time 10m",
        "&#39;runs/solar cells&#39;",
        "2 cores",
        "1.72 times as fast",
        "9 min",
    ],
)
def test_the_page_tells(run, words):
    assert words in render(read_run(run)).replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("stages", [(), *[(stage,) for stage in STAGES], STAGES[:3]], ids=str)
def test_whatever_stages_have_run_can_be_shown(tmp_path, stages):
    page = render(read_run(write_sample_run(tmp_path, stages=stages)))
    assert "</html>" in page
    assert ('id="ranking"' in page) == ("rank" in stages)
    assert ('id="test"' in page) == ("test" in stages)


def test_nothing_in_the_page_runs_or_loads(tmp_path):
    page = render(read_run(write_sample_run(tmp_path, classes=HOSTILE)))
    for tag, attributes in Elements(page).found:
        assert tag not in ELEMENTS_THAT_RUN_OR_LOAD
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/jpeg").startswith("data:image/jpeg")
        assert "href" not in attributes
    assert "49" not in re.findall(r">\s*(\d+)\s*<", page)  # {{7*7}} stays as it is


def test_hostile_names_are_still_readable(tmp_path):
    page = render(read_run(write_sample_run(tmp_path, classes=HOSTILE)))
    assert "&lt;img src=x onerror" in page
    assert "{{7*7}}" in page
    assert "\\udcff" in page


def test_ten_thousand_classes_stay_below_ten_megabytes(tmp_path):
    run = write_sample_run(tmp_path, classes=[f"species {k:05d} " + "x" * 60 for k in range(10_000)])
    assert write_report(run).stat().st_size < 10_000_000


def test_a_full_matrix_of_three_hundred_classes_stays_small(tmp_path):
    run = write_sample_run(tmp_path, classes=[f"species {k:05d}" for k in range(300)])
    assert write_report(run).stat().st_size < 1_000_000


def test_the_report_replaces_the_one_before(run):
    (run / "report.html").write_text("old")
    assert "old" not in write_report(run).read_text(encoding="utf-8")[:4]
    assert not list(run.glob("*.tmp"))


def test_the_template_uses_every_section(run):
    record = read_run(run)
    assert all(value is not None for value in sections(record).values())
    assert render(RunRecord(run, settings(("a", "b")))).count("<section") == 1


@needs_chromium
def test_in_a_browser_nothing_runs_and_no_request_leaves(tmp_path):
    run = write_sample_run(tmp_path / "run", classes=HOSTILE)
    seen = visit(write_report(run).as_uri(), tmp_path)
    assert "Do it again" in seen.dom
    assert "data-owned=" not in seen.dom.split(">", 2)[1]
    assert seen.requests == []


@needs_chromium
def test_the_browser_test_would_notice(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(f"<html><body>{HOSTILE[0]}<img src='http://127.0.0.1:9/x.png'></body></html>")
    seen = visit(page.as_uri(), tmp_path)
    assert "data-owned=" in seen.dom.split(">", 1)[0]
    assert "http://127.0.0.1:9/x.png" in seen.requests
