"""The one page, with a policy that lets it run its own script, talk to its own server, and nothing else."""

import base64
import hashlib
import re
from importlib import resources


def policy(html: str) -> str:
    """Return the content security policy under which the inline scripts and styles of `html` alone work."""
    scripts = " ".join(_digests("script", html))
    styles = " ".join(_digests("style", html))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; "
        "img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digests(tag: str, html: str) -> list[str]:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    return [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in contents
    ]


HTML = resources.files("torchard.serve").joinpath("page.html").read_text(encoding="utf-8")
HEADERS = {"Content-Security-Policy": policy(HTML)}
