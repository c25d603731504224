"""The web application: ``POST /predict`` with an image as the body, and a page to drop images on.

`GET /` is the page, `GET /health` says that it runs, `GET /model` what it runs. Errors are one line,
``{"error": "…"}``: 400 empty, 403 from another site, 408 too slow, 413 too large, 415 no image, 421 a host
name that is not ours, 422 a broken image, 503 busy.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from torchard import __version__
from torchard.export.standalone import OnnxModel
from torchard.serve import page
from torchard.serve.guard import Guard
from torchard.serve.images import Refused, decode


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many there may be.

    `max_bytes` and `max_pixels` of an image; `seconds` to send it in; `workers` images computed at a time and
    `waiting` more in line, whose bodies are held in memory.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 40_000_000
    seconds: float = 30.0
    workers: int = 2
    waiting: int = 8


def create_app(
    model: OnnxModel, *, hosts: frozenset[str] = frozenset(), limits: Limits | None = None
) -> FastAPI:
    """Return the application that answers with `model`, to requests for this computer or one of `hosts`."""
    limits = limits or Limits()
    app = FastAPI(title="torchard", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, hosts=hosts)
    app.add_exception_handler(HTTPException, _tell)
    app.add_exception_handler(RequestValidationError, _tell_parameter)
    app.add_exception_handler(Exception, _tell_nothing)
    places = Places(limits)

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    @app.get("/health")
    async def health() -> Ascii:
        return Ascii({"status": "ok"})

    @app.get("/model")
    async def describe() -> Ascii:
        return Ascii(description(model))

    @app.post("/predict")
    async def predict(request: Request, top: int = 5) -> Ascii:
        with places:
            body = await _body(request, limits)
            told = await anyio.to_thread.run_sync(answer, model, body, top, limits, limiter=places.workers)
            return Ascii(told)

    return app


def description(model: OnnxModel) -> dict[str, Any]:
    """Return what ``GET /model`` says: the classes in order, the input, and the versions."""
    written = model.session.get_modelmeta().custom_metadata_map.get("torchard", "")
    return {
        "classes": list(model.classes),
        "input": model.input,
        "torchard": __version__,
        "exported_by": written.strip('"'),
    }


def answer(model: OnnxModel, body: bytes, top: int, limits: Limits) -> dict[str, Any]:
    """Return the `top` classes of the image in `body`, best first, and the milliseconds it took.

    Raises:
        Refused: if it is no image, a broken one, or too large.
    """
    start = time.perf_counter()
    image = decode(body, max_pixels=limits.max_pixels)
    best = model.predict([image], top=max(1, min(top, len(model.classes))))[0]
    return {
        "label": best[0][0],
        "confidence": best[0][1],
        "predictions": [{"label": label, "confidence": confidence} for label, confidence in best],
        "width": image.width,
        "height": image.height,
        "milliseconds": round(1e3 * (time.perf_counter() - start), 3),
    }


class Ascii(JSONResponse):
    """JSON in ASCII: a class name may hold bytes of a file name that are no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class Places:
    """How many requests are inside: `limits.workers` at work, `limits.waiting` in line, and no more."""

    def __init__(self, limits: Limits) -> None:
        self.workers = anyio.CapacityLimiter(limits.workers)
        self.most = limits.workers + limits.waiting
        self.inside = 0

    def __enter__(self) -> None:
        if self.inside >= self.most:
            raise Refused(503, f"{self.inside} images are waiting; try again in a second")
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


async def _body(request: Request, limits: Limits) -> bytes:
    """The whole body, never more of it in memory than is allowed."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused(415, "send the image itself as the body, not a form: curl --data-binary @photo.jpg URL")
    declared = request.headers.get("content-length", "0")
    too_large = Refused(413, f"the image is larger than {limits.max_bytes:,} bytes")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the image did not arrive within {limits.seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the connection was closed before the image had arrived") from None
    return bytes(body)


async def _tell(_: Request, error: Any) -> Ascii:
    """A refusal of ours (404 and 405 too) as one line of JSON."""
    headers = {**(error.headers or {}), **({"Retry-After": "1"} if error.status_code == 503 else {})}
    line = " ".join(str(error.detail).split())
    return Ascii({"error": line}, status_code=error.status_code, headers=headers)


async def _tell_parameter(_: Request, error: Any) -> Ascii:
    named = ", ".join(f"{part['loc'][-1]}: {part['msg']}" for part in error.errors())
    return Ascii({"error": " ".join(named.split())}, status_code=422)


async def _tell_nothing(_: Request, error: Exception) -> Ascii:
    """What went wrong inside is for the terminal, not for the network."""
    return Ascii({"error": "the server failed on this image"}, status_code=500)
