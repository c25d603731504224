"""Three decompilers on the same functions of the standard library. 300 functions: 1 minute; all of them: 15.

Compared: torchard, torchard by its dispatch loop alone (no control flow recovered: the baseline), and PyPI
depyf (extra bench; left out if it is not installed; ``--depyf FOLDER`` takes it from a folder). Each works in
a process of its own, with ten seconds a function, so that a crash or a hang costs one function. What a rival
writes is compiled by its own means, and judged by the same verifier. Expected: torchard first in every column
but time, where its rivals, which check nothing, may be ahead.

Options: ``--functions N`` takes N functions, evenly spread (0: all; 300 unless told).
"""

import argparse
import json
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

from tests.compiler import corpus
from torchard.compiler.decompile import decompile_code, equivalent, recompile
from torchard.compiler.decompile.verify.equivalence import interface_difference

SECONDS = 10  # of processor time, for one function
CLAIM = (
    "torchard's source compiles, keeps the interface and is proved far more often than depyf's, and than "
    "that of its own dispatch loop alone."
)
Arm = Callable[[CodeType], tuple[float, CodeType]]


def torchard(code: CodeType) -> tuple[float, CodeType]:
    """Return seconds and the code of the source; its own proof is part of the time."""
    start = time.perf_counter()
    found = decompile_code(code)
    return time.perf_counter() - start, recompile(found.source, code)


def dispatch(code: CodeType) -> tuple[float, CodeType]:
    """Every function as a loop over basic blocks."""
    start = time.perf_counter()
    found = decompile_code(code, strategy="dispatch")
    return time.perf_counter() - start, recompile(found.source, code)


def depyf(code: CodeType) -> tuple[float, CodeType]:
    """PyPI depyf, which checks nothing; lambdas get a name that its ``def`` can bear."""
    from depyf.decompiler import Decompiler  # type: ignore[import-not-found, import-untyped, unused-ignore]

    named = code if code.co_name.isidentifier() else code.replace(co_name="code")
    start = time.perf_counter()
    Decompiler(named).decompile()
    seconds = time.perf_counter() - start
    compiled: CodeType = Decompiler.decompile_and_compile_like(named, named)
    return seconds, compiled


ARMS: dict[str, Arm] = {"torchard": torchard, "torchard, dispatch loop only": dispatch, "depyf": depyf}


def main() -> None:
    options = _options()
    if options.worker:
        _work(ARMS[options.worker], options)
        return
    rows, details = [], {}
    for name in ARMS:
        if name == "depyf" and not _installed(options.depyf):
            print("depyf is not installed: left out. Say `pip install -e .[bench]`, or --depyf FOLDER.")
            continue
        answers = _answers(name, options)
        rows.append(_row(name, answers))
        details[name] = dict(Counter(answer["end"] for answer in answers).most_common(12))
    _save(rows, details)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=300)
    parser.add_argument("--depyf", default="")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _installed(folder: str) -> bool:
    search = [sys.executable, "-c", f"import sys; sys.path.append({folder!r}); import depyf.decompiler"]
    return subprocess.run(search, capture_output=True, check=False).returncode == 0


# -- one arm: a process that may have to be started again


def _answers(name: str, options: Any) -> list[dict[str, Any]]:
    count = len(_sample(options.functions))
    answers: list[dict[str, Any]] = []
    while len(answers) < count:
        answers += _run(name, options, start=len(answers), count=count)
    return answers


def _run(name: str, options: Any, *, start: int, count: int) -> list[dict[str, Any]]:
    """Return the answers from ``start`` on, up to the end or to the function that stopped the process."""
    command = [sys.executable, "-m", "experiments.compiler.rivals", "--worker", name, "--start", str(start)]
    command += ["--functions", str(options.functions), "--depyf", options.depyf]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(worker.stdout, lines), daemon=True).start()
    found: list[dict[str, Any]] = []
    patience = 240.0  # the first answer waits for imports, too
    while start + len(found) < count:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            found.append({"end": "hang"})
            break
        found.append(json.loads(line) if line else {"end": "crash"})
        if not line:
            break
        patience = 9 * SECONDS
    worker.kill()
    worker.wait()
    return found


def _listen(stream: Any, lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")  # the process ended


def _work(arm: Arm, options: Any) -> None:
    sys.path.append(options.depyf)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a rival prints is no answer
    signal.signal(signal.SIGPROF, _too_long)
    for code in _sample(options.functions)[options.start :]:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            answer = _answer(arm, code)
        except TimeoutError:
            answer = {"end": "too long"}
        except BaseException as error:  # whatever a rival raises: it gave no code
            answer = {"end": f"no code: {type(error).__name__}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(arm: Arm, code: CodeType) -> dict[str, Any]:
    seconds, compiled = arm(code)
    signal.setitimer(signal.ITIMER_PROF, 6 * SECONDS)  # judging is our own work
    if interface_difference(code, compiled):
        return {"end": "another interface", "seconds": seconds, "compiles": True}
    kind = equivalent(code, compiled).kind
    return {"end": kind, "seconds": seconds, "compiles": True, "same": True, "proved": kind != "unverified"}


def _too_long(*_: Any) -> None:
    raise TimeoutError


def _sample(count: int) -> list[CodeType]:
    found = [code for _, code in corpus.functions()]
    return found[:: max(1, len(found) // count)][:count] if count else found


# -- the table


def _row(name: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    total = len(answers)
    shares = {
        key: sum(bool(one.get(key)) for one in answers) / total for key in ("compiles", "same", "proved")
    }
    seconds = [one["seconds"] for one in answers if "seconds" in one]
    stopped = sum(one["end"] in ("hang", "crash", "too long") for one in answers)
    median = statistics.median(seconds) * 1e3 if seconds else None
    return {"decompiler": name, "functions": total, **shares, "stopped": stopped, "median": median}


def _save(rows: list[dict[str, Any]], details: dict[str, Any]) -> None:
    from experiments import record
    from torchard.cli.console import Column

    for row in rows:
        row.update({key: f"{row[key]:.1%}" for key in ("compiles", "same", "proved")})
        row["median"] = "" if row["median"] is None else f"{row['median']:.2f}"
    columns = [
        Column("decompiler"), Column("functions"), Column("compiles"), Column("same", "same interface"),
        Column("proved"), Column("stopped", "crash, hang or > 10 s"), Column("median", "median [ms]"),
    ]  # fmt: skip
    best = max(rows, key=lambda row: float(row["proved"].rstrip("%")))
    record.save(
        "results/depyf_rivals.json", rows, columns, claim=CLAIM,
        verdict=f"Most proved: {best['decompiler']}. Proofs by torchard's verifier, for all alike.",
        details=details,
    )  # fmt: skip


if __name__ == "__main__":
    main()
