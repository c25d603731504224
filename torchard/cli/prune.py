"""Remove channels, hidden units and head widths of a model, whatever its layers.

MODEL is a name from `torchard hub list`, torchvision:NAME, the folder of a saved model, a file
pruned.safetensors, or package.module:function, which is imported and returns a model and an example input.
These are cut, and not trained. The folder of a run that `torchard tune` made is pruned as fit does it: cut,
trained on the run's data and kept in the run; with --out it is cut only.
"""

from pathlib import Path
from typing import Annotated, Any

import click
import typer

from torchard.cli.console import Column, Facts, emit, print_line, print_table

FOR_RUNS = ("model", "macs", "params", "latency", "json", "debug")


def command(
    model: Annotated[str, typer.Argument(help="What to prune.")],
    *,
    ratio: Annotated[
        float | None, typer.Option(help="Share of each group's units to remove, 0 to 1.")
    ] = None,
    macs: Annotated[
        str, typer.Option(help="Such as 0.5x or 120M. Default without ratio or target: 0.5x.")
    ] = "",
    params: Annotated[str, typer.Option(help="Such as 2M or 0.25x.")] = "",
    latency: Annotated[str, typer.Option(help="Of one input on this machine, such as 8ms or 0.5x.")] = "",
    criterion: Annotated[str, typer.Option(help="l1, l2, fpgm, lamp, bn_scale or random.")] = "l2",
    scope: Annotated[str, typer.Option(help="local, global or isomorphic.")] = "local",
    per: Annotated[
        str, typer.Option(help="Rank by score per macs or params saved (not with local scope).")
    ] = "",
    heads: Annotated[str, typer.Option(help="In attention: dims, heads, both or none.")] = "dims",
    round_to: Annotated[int, typer.Option(help="Kept widths are multiples of this.")] = 1,
    ignore: Annotated[list[str] | None, typer.Option(help="Names or patterns to leave alone.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the example image.")] = None,
    random: Annotated[bool, typer.Option(help="Take random weights instead of pre-trained ones.")] = False,
    onnx: Annotated[bool, typer.Option(help="Also write a checked ONNX file.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the result. Default: pruned/ and its name.")
    ] = None,
) -> int:
    from torchard.core.errors import UsageError

    if out is None and (Path(model) / "torchard.json").is_file():
        _refuse_ways_to_cut()
        return _prune_run(Path(model), macs, params, latency)

    from torchard.prune.depgraph import UnreachableTargetError, plan, trace
    from torchard.prune.subject import open_subject, write

    target = _target(ratio, macs, params, latency)
    if per and scope == "local":
        raise UsageError("--per ranks units of several groups: give --scope global or isomorphic.")
    subject = _from_code(model) if _is_code(model) else open_subject(model, size=size, pretrained=not random)
    graph = trace(subject.model, subject.example)
    wanted = {"ratio": ratio} if ratio is not None else {"target": target(subject)}
    reached = True
    try:
        chosen = plan(
            graph,
            **wanted,
            criterion=_checked(criterion),
            scope=_word(scope, "--scope", ("local", "global", "isomorphic")),
            per=_word(per, "--per", ("macs", "params")) if per else None,
            heads=_word(heads, "--heads", ("dims", "heads", "both", "none")),
            round_to=round_to,
            ignore=ignore or (),
        )
    except UnreachableTargetError as error:
        chosen, reached = error.nearest, False
    facts = write(subject, chosen, out or Path("pruned") / subject.name.replace("/", "-"), onnx=onnx)
    emit({**facts, "reached": reached, "unknown": dict(graph.unknown)}, _show)
    return 0 if reached else 3


def _refuse_ways_to_cut() -> None:
    """In a run only limits are taken: how it is cut and trained is fit's."""
    from click.core import ParameterSource

    from torchard.core.errors import UsageError

    context = click.get_current_context()
    for name in context.params:
        if name not in FOR_RUNS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"In a run, fit's ways hold: {option} is for --out FOLDER, which only cuts.")


def _prune_run(run: Path, macs: str, params: str, latency: str) -> int:
    from torchard.cli.console import progress
    from torchard.pipeline.prune_run import prune_run

    given = {name: limit for name, limit in _limits(macs, params, latency).items() if limit is not None}
    facts = prune_run(run, targets=given, say=progress().print)
    emit(facts, _show_run)
    return 0 if facts["reached"] else 3


def _show_run(facts: Facts) -> None:
    metric = facts["metric"]
    rows = [
        {"name": label, **facts[stage], "score": facts[f"validation_{stage}"][metric]}
        for label, stage in (("tuned", "before"), ("pruned", "after"))
    ]
    print_table(
        rows,
        [
            Column("name", facts["model"]),
            Column("score", f"validation {metric.replace('_', ' ')}", "%", scale=100.0, digits=1),
            *_COSTS,
        ],
    )
    if not facts["reached"]:
        print_line("The target is out of reach; this is the nearest.")
    print_line(f"Weights: {facts['run']}/pruned.safetensors")
    print_line(f"Next: torchard export {facts['run']}   or   torchard report {facts['run']}")


def _show(facts: Facts) -> None:
    print_table(facts["groups"], [Column("name", "group"), Column("before"), Column("after")])
    print_line()
    rows = [{"name": name, **facts[name]} for name in ("before", "after")]
    print_table(rows, [Column("name", facts["name"]), *_COSTS])
    print_line(f"{facts['speedup']:.2f} times as fast.")
    if said := [row for row in facts["frozen"] if row["reason"] not in ("model input", "model output")]:
        print_line("Cannot be pruned:")
        print_table(said, [Column("name", "parameter"), Column("reason")])
    for name, count in facts["unknown"].items():
        print_line(f"No rule for {name} ({count} calls); what it touches stays whole.")
    if not facts["reached"]:
        print_line("The target is out of reach; this is the nearest.")
    print_line(f"Weights: {facts['weights']}" + (f"   ONNX: {facts['onnx']}" if "onnx" in facts else ""))
    print_line("Next: train it again at about a tenth of the original learning rate.")


_COSTS = (
    Column("params", unit="M", scale=1e-6, digits=2),
    Column("macs", "MACs", unit="M", scale=1e-6, digits=0),
    Column("bytes", "tensors", unit="MB", scale=1e-6, digits=1),
    Column("latency_ms", "latency", unit="ms", digits=1),
)


def _target(ratio: float | None, macs: str, params: str, latency: str) -> Any:
    """A function of the subject that returns its target, everything the user wrote having been checked."""
    from torchard.core.budget import parse_macs
    from torchard.core.errors import UsageError

    if ratio is not None and (macs or params or latency):
        raise UsageError("Give either --ratio or targets (--macs, --params, --latency).")
    if ratio is not None and not 0 <= ratio < 1:
        raise UsageError(f"--ratio {ratio} must be at least 0 and below 1.")
    limits = _limits(macs, params, latency)
    if not any(limits.values()):
        limits["macs"] = parse_macs("0.5x")

    def build(subject: Any) -> Any:
        from torchard.core.budget import latency as timed
        from torchard.prune.depgraph import Target

        return Target(**limits, measure=lambda model: timed(model, subject.example).median_ms)

    return build


def _limits(macs: str, params: str, latency: str) -> dict[str, Any]:
    from torchard.core.budget import parse_latency, parse_macs, parse_params

    return {
        "macs": parse_macs(macs) if macs else None,
        "params": parse_params(params) if params else None,
        "latency": parse_latency(latency) if latency else None,
    }


def _checked(criterion: str) -> str:
    from torchard.prune.depgraph.importance import CRITERIA

    return _word(criterion, "--criterion", (*(set(CRITERIA) - {"taylor", "taylor_per_element"}), "random"))


def _word(given: str, option: str, known: tuple[str, ...]) -> Any:
    from torchard.core.errors import UsageError

    if given not in known:
        raise UsageError(f"{option} {given!r} is not known. Choose {', '.join(sorted(known))}.")
    return given


def _is_code(model: str) -> bool:
    return ":" in model and not model.startswith("torchvision:") and not Path(model).exists()


def _from_code(model: str) -> Any:
    """Import what the user typed. Only the command line does this; no file may name code."""
    import importlib
    import sys

    from torchard.core.errors import UsageError
    from torchard.prune.subject import Subject

    place, _, name = model.partition(":")
    sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{model} cannot be imported: {error}.") from None
    finally:
        sys.path.remove("")
    made = factory()
    if not isinstance(made, tuple) or len(made) != 2:
        raise UsageError(f"{model} must return a model and an example input, not {type(made).__name__}.")
    return Subject(name, made[0].eval(), made[1], None)
