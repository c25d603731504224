"""The index of a dump: what tells most comes first, links lead somewhere, and no name becomes markup."""

import html.parser
import types
from urllib.parse import unquote

import pytest
import torch

from tests.compiler import programs
from torchard.compiler import depyf
from torchard.compiler.dynamo import index
from torchard.compiler.dynamo.records import Break, Entry, Frame


class Page(html.parser.HTMLParser):
    """Collects the tags and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    torch.compiler.reset()
    folder = tmp_path_factory.mktemp("dump")
    with depyf.prepare_debug(folder) as session:
        compiled = torch.compile(programs.break_on_print, backend="eager")
        compiled(torch.ones(3))
        compiled(torch.ones(4))
    torch.compiler.reset()
    return session


def test_every_link_of_the_page_leads_to_a_file(dumped):
    page = Page((dumped.directory / "index.html").read_text())
    assert len(page.links) > 10
    for link in page.links:
        assert (dumped.directory / unquote(link)).is_file()


def test_the_page_and_the_markdown_say_the_same(dumped):
    page = Page(index.index_html(dumped)).text
    for told in ("1 graph break", "recompilation", "size mismatch", "proved", "print"):
        assert told in page
        assert told in dumped.summary()


def test_without_links_the_index_names_no_file(dumped):
    text = index.index_markdown(dumped, links=False)
    assert "](" not in text
    assert "details" not in text
    assert "size mismatch" in text


def test_what_a_call_does_can_be_imported(dumped):
    source = dumped.path(programs.break_on_print, "full").read_text()
    assert "from .original import break_on_print as original" in source
    names = {line.split()[-1] for line in source.splitlines() if line.startswith("from ")}
    assert {"original", "guard_0", "transformed_0"} <= names


def test_names_and_reasons_are_no_markup():
    code = (lambda: 0).__code__
    evil = "<img src=x onerror=alert(1)>|`</script>"
    frame = Frame(code, evil, "x", [Entry("0/0", 0), Entry("0/1", 1, recompile=evil)])
    frame.entries[0].breaks.append(Break(1, evil))
    frame.entries[0].files["transformed_0"] = 'a"b<c>.py'
    session = types.SimpleNamespace(frames=[frame], failures=[evil], seconds=0.0)
    page = Page(index.index_html(session))
    assert "img" not in page.tags
    assert "script" not in page.tags
    assert page.links == ["a%22b%3Cc%3E.py"]
    assert "<img" not in index.index_markdown(session).replace("`<img", "")


REASONS = {
    "Graph Break Reason: Data-dependent branching\n  Explanation: Detected": "Data-dependent branching",
    "Graph Break Reason: Encountered graph break when attempting to trace CALL:\n  Explanation: no print":
        "no print",
    "0/0: tensor 'x' size mismatch": "tensor 'x' size mismatch",
    '[\n"1/1: tensor h",\n"1/0: self.steps == 0    # self.steps += 1"\n]': "tensor h",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize(("text", "told"), REASONS.items())
def test_the_line_that_tells_most_is_taken(text, told):
    assert index.telling_line(text) == told
