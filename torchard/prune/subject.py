"""What the command line prunes: a model by name, a model or run folder, or a file of an earlier pruning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from torchard import hub
from torchard.core.budget import compare_latency, file_bytes
from torchard.core.data.spec import InputSpec
from torchard.core.errors import UsageError
from torchard.core.files import write_json
from torchard.export.onnx import export_onnx
from torchard.hub.folder import is_model_folder, read
from torchard.prune.depgraph.cutting import apply
from torchard.prune.depgraph.decision import Plan
from torchard.prune.depgraph.report import PruneReport
from torchard.prune.depgraph.store import Origin, load_pruned, read_origin, save_pruned

WEIGHTS, FACTS, ONNX = "pruned.safetensors", "prune.json", "model.onnx"


@dataclass(frozen=True)
class Subject:
    """A model to prune, an example of its input, and how its file can say what it was."""

    name: str
    model: nn.Module
    example: Tensor
    origin: Origin | None
    spec: InputSpec | None = None
    classes: tuple[str, ...] = ()


def open_subject(what: str, *, size: int | None = None, pretrained: bool = True) -> Subject:
    """Return the model that ``what`` names.

    ``what`` is a name in the hub, ``torchvision:NAME``, a folder with a model or a tuned run, or a file that
    was written by :func:`write`. ``size`` is the height and width of the example image.

    Raises:
        UsageError: if nothing of this name is known.
        FileRefusedError: if a file is damaged or does not fit.
    """
    path = Path(what)
    if path.suffix == ".safetensors":
        return _from_file(path, size)
    if is_model_folder(path):
        saved = read(path)
        origin = Origin("timm", saved.model, {"num_classes": saved.num_classes})
        model = hub.load(what)
        return Subject(path.name, model, _images(saved.input, size), origin, saved.input, saved.classes)
    if what.startswith("torchvision:"):
        return _from_torchvision(what.partition(":")[2], size, pretrained)
    spec = hub.input_spec(what, size)
    return Subject(
        what, hub.load(what, pretrained=pretrained), _images(spec, size), Origin("hub", what), spec
    )


def write(subject: Subject, plan: Plan, out: Path, *, onnx: bool = True, repeats: int = 20) -> dict[str, Any]:
    """Cut a copy of the subject, write it and the facts to the folder ``out``, and return the facts.

    With ``onnx`` also one ONNX file, checked on a few pictures of noise, for models that read images.

    Raises:
        UsageError: if ``out`` holds something else already.
        ExportMismatchError: if the ONNX file answers otherwise.
    """
    _check_folder(out)
    report = apply(subject.model, plan, inplace=False)
    small = report.model.eval()
    out.mkdir(parents=True, exist_ok=True)
    factory = subject.origin if subject.origin is not None else (lambda: subject.model)
    save_pruned(small, out / WEIGHTS, factory=factory)
    facts = {"name": subject.name, **report.to_json(), **_measured(subject, report, repeats)}
    facts["weights"] = str(out / WEIGHTS)
    if onnx and subject.spec is not None:
        facts["onnx"] = str(_export(subject, small, out / ONNX))
    write_json(out / FACTS, facts)
    return facts


def _measured(subject: Subject, report: PruneReport, repeats: int) -> dict[str, Any]:
    times = compare_latency(subject.model.eval(), report.model, subject.example, repeats=repeats)
    costs = report.to_json()
    before = {**costs["before"], "bytes": file_bytes(subject.model), "latency_ms": times.before.median_ms}
    after = {**costs["after"], "bytes": file_bytes(report.model), "latency_ms": times.after.median_ms}
    return {"before": before, "after": after, "speedup": times.speedup}


def _export(subject: Subject, model: nn.Module, path: Path) -> Path:
    assert subject.spec is not None
    with torch.no_grad():
        count = model(subject.example).shape[-1]
    classes = subject.classes if len(subject.classes) == count else [str(number) for number in range(count)]
    height, width = subject.spec.size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    pictures = [Image.fromarray(picture.numpy()) for picture in noise]
    export_onnx(model, path, spec=subject.spec, classes=classes, images=pictures)
    return path


def _check_folder(out: Path) -> None:
    if out.is_file():
        raise UsageError(f"{out} is a file; give a folder for the result with --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS).is_file():
        raise UsageError(f"{out} holds something else already; give another folder with --out.")


def _from_file(path: Path, size: int | None) -> Subject:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    origin = read_origin(path)
    if origin is None:
        raise UsageError(f"{path} does not name its architecture; load it in Python with load_pruned.")
    model = load_pruned(path)
    spec = hub.input_spec(origin.name, size) if origin.source != "torchvision" else None
    example = _images(spec, size) if spec is not None else torch.randn(1, 3, size or 224, size or 224)
    return Subject(path.stem, model, example, origin, spec)


def _from_torchvision(name: str, size: int | None, pretrained: bool) -> Subject:
    import torchvision

    origin = Origin("torchvision", name)
    try:
        model = origin.build()
        if pretrained:
            weights = torchvision.models.get_model_weights(name).DEFAULT
            model = torchvision.models.get_model(name, weights=weights)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(
            f"The weights of torchvision's {name} cannot be fetched ({error}); --random prunes random ones."
        ) from None
    return Subject(name, model.eval(), torch.randn(1, 3, size or 224, size or 224), origin)


def _images(spec: InputSpec, size: int | None) -> Tensor:
    height, width = (size, size) if size is not None else spec.size
    return torch.randn(1, 3, height, width)
