"""The page in a real browser: its own script posts pictures and shows the answers, under its own policy."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

from tests.chromium import Visit, needs_chromium, visit
from torchard.serve import page
from torchard.serve.app import create_app
from torchard.serve.server import bind

# What a person does: drop a picture and something that is none, then choose another picture. When all is
# answered, `done` is asked for, which lets `wait` end, and with it the loading of the page.
HAND = """
<script>
async function picture(colour, name) {
  const canvas = document.createElement("canvas");
  canvas.width = 24; canvas.height = 16;
  const pen = canvas.getContext("2d");
  pen.fillStyle = colour; pen.fillRect(0, 0, 24, 16);
  return new File([await new Promise((done) => canvas.toBlob(done))], name, { type: "image/png" });
}
function holding(...files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  return transfer;
}
(async () => {
  const red = await picture("#f00", "<b>red</b>.png"), blue = await picture("#00f", "blue.png");
  const text = new File(["no picture"], "text.png");
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: holding(red, text), cancelable: true }));
  const input = document.getElementById("file");
  input.files = holding(blue).files;
  input.dispatchEvent(new Event("change"));
})();
new MutationObserver((_, observer) => {
  const heads = [...document.querySelectorAll("#results h2")].map((head) => head.textContent);
  const known = document.getElementById("model").textContent.includes("classes");
  if (heads.length === 3 && !heads.includes("…") && known) { observer.disconnect(); fetch("done"); }
}).observe(document.body, { childList: true, subtree: true, characterData: true });
</script>
<img src="wait" alt="">
"""


def app_with_hand(app: FastAPI) -> FastAPI:
    """The application, and at ``/hand`` its page with a hand that uses it, under the page's own policy."""
    html = page.HTML.replace("</body>", HAND + "</body>")
    policy = page.policy(html).replace("img-src", "img-src 'self'")
    done = asyncio.Event()

    @app.get("/hand")
    async def hand() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.get("/done")
    async def end() -> Response:
        done.set()
        return Response()

    @app.get("/wait")
    async def wait() -> Response:
        await asyncio.wait_for(done.wait(), 60)
        return Response()

    return app


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app_with_hand(create_app(model)), log_level="error"))
    with bind("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def seen(url, tmp_path_factory) -> Visit:
    return visit(f"{url}hand", tmp_path_factory.mktemp("browser"))


@needs_chromium
def test_the_page_says_what_it_knows(seen):
    assert "3 classes: red, green, &lt;img src=x" in seen.dom
    assert "Input 6 × 8 pixels" in seen.dom


@needs_chromium
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("&lt;b&gt;red&lt;/b&gt;.png · 24 × 16", "<h2>red</h2>"),
        ("blue.png · 24 × 16", "<h2>&lt;img src=x onerror"),
        ("text.png", '<h2 class="error">this is no image'),
    ],
)
def test_what_is_dropped_or_chosen_is_posted_and_the_answer_shown(seen, name, told):
    cards = seen.dom.split('<ol id="results"', 1)[1].split("</ol>", 1)[0].split("</li>")[:-1]
    assert len(cards) == 3
    (card,) = [card for card in cards if name in card]
    assert told in card


@needs_chromium
def test_names_run_nothing_and_only_its_own_server_is_asked(seen, url):
    assert "data-owned" not in seen.dom.split(">", 1)[0]
    asked = [request for request in seen.requests if not request.startswith(("blob:", "data:"))]
    assert sorted(asked) == sorted([*[f"{url}predict"] * 3, f"{url}model", f"{url}wait", f"{url}done"])
