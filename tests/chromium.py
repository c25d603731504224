"""Open a page in headless Chromium: what the document became, and what was asked of any network."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)


@dataclass(frozen=True)
class Visit:
    """A page after its scripts ran: its document as HTML, and every URL it asked for."""

    dom: str
    requests: list[str]


def visit(url: str, folder: Path, *, width: int = 1200) -> Visit:
    """Load `url` with a new profile under `folder` and return what had come of it when it was loaded."""
    log = folder / "net.json"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
        "--no-default-browser-check",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        f"--window-size={width},900",
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return Visit(done.stdout.decode("utf-8"), _requests(json.loads(log.read_text(encoding="utf-8"))))


def _requests(log: dict) -> list[str]:
    """The requests made by documents; the browser's own errands have no origin."""
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event.get("params", {}) for event in log["events"] if event["type"] == started]
    return [job["url"] for job in jobs if job.get("initiator", "not an origin") != "not an origin"]
