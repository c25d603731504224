"""Turn a run folder into ``report.html``: one file, readable anywhere, that asks nothing of any network.

The page holds no script at all, its pictures are data URIs or inline SVG, a content security policy forbids
the rest, and every text of the run is escaped.
"""

from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from torchard import __version__
from torchard.core.files import write_atomic
from torchard.report import wording
from torchard.report.folder import RunRecord, read_run
from torchard.report.sections import sections


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run folder `run` from what stages have finished; return its path.

    Takes well under a second, below 10 MB also for 10,000 classes.

    Raises:
        UsageError: if `run` is not a run folder.
        FileRefusedError: if one of its files is damaged.
    """
    path = run / "report.html"
    write_atomic(path, render(read_run(run)))
    return path


def render(record: RunRecord) -> str:
    """Return the page as text."""
    style = resources.files("torchard.report").joinpath("report.css").read_text(encoding="utf-8")
    return _template().render(version=__version__, style=style, **sections(record))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("torchard.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "percent",
        "count",
        "amount",
        "milliseconds",
        "duration",
        "metric_name",
        "change",
        "points",
        "small",
    )
    environment.filters.update({name: getattr(wording, name) for name in names})
    return environment.get_template("report.html.j2")
