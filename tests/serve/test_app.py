import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import CLASSES
from torchard import __version__
from torchard.serve.app import Limits, create_app


def ask(app, method: str, path: str, *, host: str = "127.0.0.1:8000", **options) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def picture(kind: str = "PNG", colour: str = "red", size: tuple[int, int] = (20, 12)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def app(model):
    return create_app(model)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize(("colour", "label"), [("red", 0), ("lime", 1), ("blue", 2)])
def test_an_image_is_answered_with_its_classes(app, kind, colour, label):
    answer = ask(app, "POST", "/predict", content=picture(kind, colour))
    assert answer.status_code == 200
    told = answer.json()
    assert told["label"] == CLASSES[label]
    assert told["confidence"] > 0.99
    assert (told["width"], told["height"]) == (20, 12)
    assert [guess["confidence"] for guess in told["predictions"]] == sorted(
        (guess["confidence"] for guess in told["predictions"]), reverse=True
    )


def test_the_answer_is_that_of_the_model(app, model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    told = ask(app, "POST", "/predict?top=3", content=stream.getvalue()).json()
    assert [(guess["label"], guess["confidence"]) for guess in told["predictions"]] == model.predict([image])[
        0
    ]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (99, 3), (0, 1), (-5, 1)])
def test_as_many_classes_as_asked_for(app, top, count):
    told = ask(app, "POST", f"/predict?top={top}", content=picture()).json()
    assert len(told["predictions"]) == count


def refused(answer: httpx.Response, status: int, words: str) -> bool:
    told = answer.json()
    return (
        answer.status_code == status
        and list(told) == ["error"]
        and words in told["error"]
        and "\n" not in told["error"]
    )


BROKEN = picture("PNG", size=(300, 300))


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"<html>", 415, "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image"),
        (BROKEN[: len(BROKEN) // 2], 422, "cannot be decoded"),
        (BROKEN[:40], 415, "no image"),
        (picture("JPEG")[:200], 422, "cannot be decoded"),
    ],
    ids=["empty", "html", "postscript", "svg", "half", "header", "jpeg"],
)
def test_what_is_no_whole_image_is_refused_in_one_line(app, content, status, words):
    assert refused(ask(app, "POST", "/predict", content=content), status, words)


def test_a_form_is_told_how_to_send_the_image(app):
    assert refused(ask(app, "POST", "/predict", files={"file": picture()}), 415, "--data-binary")


def test_a_parameter_that_is_no_number_is_refused(app):
    assert refused(ask(app, "POST", "/predict?top=many", content=picture()), 422, "top")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/docs", 404), ("PUT", "/", 405)]
)
def test_other_ways_are_refused_in_one_line(app, method, path, status):
    assert refused(ask(app, method, path), status, "")


class TestLimits:
    def test_declared_and_undeclared_bytes(self, model):
        app = create_app(model, limits=Limits(max_bytes=1000))
        pulled = []

        async def endless() -> AsyncIterator[bytes]:
            for number in range(1_000_000):
                pulled.append(number)
                yield b"x" * 400

        assert refused(ask(app, "POST", "/predict", content=b"x" * 1001), 413, "1,000 bytes")
        assert refused(ask(app, "POST", "/predict", content=endless()), 413, "1,000 bytes")
        assert len(pulled) < 10

    def test_pixels_are_counted_before_they_are_decoded(self, model):
        app = create_app(model, limits=Limits(max_pixels=100))
        assert ask(app, "POST", "/predict", content=picture(size=(10, 10))).status_code == 200
        assert refused(ask(app, "POST", "/predict", content=picture(size=(10, 11))), 413, "pixels")

    @pytest.mark.parametrize("side", [10_000, 65_000])
    def test_a_small_file_that_claims_many_pixels_costs_none(self, app, side):
        header = (
            picture("BMP", size=(1, 1))[:18] + side.to_bytes(4, "little") * 2 + b"\x01\0\x18\0" + b"\0" * 24
        )
        assert refused(ask(app, "POST", "/predict", content=header), 413, "pixels")

    def test_a_body_that_does_not_arrive(self, model):
        app = create_app(model, limits=Limits(seconds=0.05))

        async def stalled() -> AsyncIterator[bytes]:
            yield picture()
            await asyncio.Event().wait()

        assert refused(ask(app, "POST", "/predict", content=stalled()), 408, "0.05 seconds")

    def test_more_than_may_wait_are_turned_away_and_the_others_answered(self, model, monkeypatch):
        started, released = threading.Event(), threading.Event()
        at_work: list[int] = []

        def slow(*arguments: object) -> dict:
            at_work.append(1)
            started.set()
            assert released.wait(20)
            return {}

        monkeypatch.setattr("torchard.serve.app.answer", slow)
        app = create_app(model, limits=Limits(workers=1, waiting=2))

        async def crowd() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                tasks = [asyncio.create_task(client.post("/predict", content=b"x")) for _ in range(5)]
                while sum(task.done() for task in tasks) < 2:
                    await asyncio.wait([task for task in tasks if not task.done()], timeout=0.01)
                await asyncio.to_thread(started.wait, 20)
                assert len(at_work) == 1
                released.set()
                return await asyncio.gather(*tasks)

        answers = asyncio.run(crowd())
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 503, 503]
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
        assert len(at_work) == 3


def test_a_failure_inside_tells_the_network_nothing(model, monkeypatch):
    def broken(*arguments: object) -> dict:
        raise RuntimeError("secret path")

    monkeypatch.setattr("torchard.serve.app.answer", broken)
    answer = ask(create_app(model), "POST", "/predict", content=picture())
    assert refused(answer, 500, "failed")
    assert "secret" not in answer.text


def test_health_and_model_say_what_runs(app):
    assert ask(app, "GET", "/health").json() == {"status": "ok"}
    told = ask(app, "GET", "/model").json()
    assert told["classes"] == list(CLASSES)
    assert told["input"]["size"] == [8, 6]
    assert told["exported_by"] == __version__


def test_names_that_are_no_unicode_travel_as_ascii(model):
    app = create_app(replace(model, classes=("red", "green", "caf\udce9 \n")))
    content = ask(app, "POST", "/predict", content=picture(colour="blue")).content
    assert content.isascii()
    assert json.loads(content)["label"] == "caf\udce9 \n"


def test_the_page_may_run_its_own_script_alone(app):
    answer = ask(app, "GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "'sha256-" in policy
    assert "http:" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in answer.text


@pytest.mark.parametrize("path", ["/", "/health", "/model", "/nowhere"])
def test_every_answer_carries_safe_headers(app, path):
    headers = ask(app, "GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
