"""Tell of one model: where it comes from, what it costs, what it wants to see."""

from collections.abc import Sequence
from typing import Annotated

import typer

from torchard.cli.console import Facts, emit, print_line


def command(
    name: Annotated[str, typer.Argument(help="A name from `torchard hub list`, or a folder with a model.")],
) -> None:
    import torch

    from torchard import hub
    from torchard.core.budget import count_macs, count_params, file_bytes

    model = hub.describe(name)
    network = hub.load(name, pretrained=False)
    example = torch.zeros(1, 3, *model.input.size)
    costs = {
        "params": count_params(network),
        "macs": count_macs(network, example),
        "bytes": file_bytes(network),
        "features": network.num_features,
        "classes": network.num_classes,
    }
    emit({**model.to_json(), **costs}, _show)


def _show(facts: Facts) -> None:
    spec = facts["input"]
    print_line(facts["name"], style="bold")
    print_line(facts["description"])
    print_line()
    print_line(f"Source: {facts['source']}; licence: {facts['license']}")
    print_line(
        f"Costs: {facts['params'] / 1e6:.2f} M parameters, {facts['macs'] / 1e6:.0f} M MACs an image, "
        f"{facts['bytes'] / 1e6:.1f} MB"
    )
    print_line(f"Gives: {facts['features']} features, {facts['classes'] or 'no'} classes")
    height, width = spec["size"]
    print_line(f"Sees: {height}×{width} pixels, {spec['interpolation']}, {spec['rule']}")
    print_line(f"Normalised: mean {_values(spec['mean'])}; std {_values(spec['std'])}")
    print_line("Loads here and now." if facts["available"] else f"Not here: {facts['why_not']}.")
    print_line()
    print_line("Load it:")
    print_line("  from torchard import hub")
    print_line(f'  model = hub.load("{facts["name"]}", num_classes=2)')


def _values(channels: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in channels)
