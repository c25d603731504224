"""Models kept in a folder: tensors in safetensors, everything else in JSON.

Two kinds are read: what :func:`save` wrote (``model.json`` beside its weights), and the folder of a
finished run, whose tuned model it is then. A file never names code: the architecture is a word that timm's
registry must know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from torchard.core import checkpoint
from torchard.core.data.spec import InputSpec
from torchard.core.errors import FileRefusedError, UsageError
from torchard.core.files import confine, quote, read_json, write_json
from torchard.hub.model import HubModel, declare, made_ready

CARD = "model.json"
WEIGHTS = "model.safetensors"
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Saved:
    """What a folder says about the model in it."""

    model: str
    num_classes: int
    input: InputSpec
    weights: Path
    classes: tuple[str, ...]
    license: str


def save(
    folder: Path,
    model: nn.Module,
    *,
    name: str,
    input: InputSpec,
    classes: Sequence[str] = (),
    license: str = "unknown",
) -> None:
    """Write ``model`` (timm's architecture ``name``) to ``folder``, so that the hub can load it from there.

    Raises:
        ValueError: if timm does not know ``name``, or ``classes`` has another length than the model's output.
    """
    if not timm.is_model(name):
        raise ValueError(
            f"`name={name!r}` is no architecture of timm, so the folder could not be loaded again."
        )
    if classes and len(classes) != model.num_classes:
        raise ValueError(
            f"`classes` names {len(classes)} classes; the model answers for {model.num_classes}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save_tensors(folder / WEIGHTS, model.state_dict())
    card = {
        "format": 1,
        "model": name,
        "num_classes": model.num_classes,
        "classes": list(classes),
        "input": input.to_json(),
        "weights": WEIGHTS,
        "license": license,
    }
    write_json(folder / CARD, card)


def list_folders(pattern: str = "*") -> list[HubModel]:
    """Return the models in the folders that match the glob ``pattern``, relative to here or absolute."""
    anchor = Path(pattern).anchor
    found = Path(anchor).glob(pattern.removeprefix(anchor))
    folders = sorted(folder for folder in found if is_model_folder(folder))
    return [describe_folder(folder) for folder in folders]


def describe_folder(folder: Path) -> HubModel:
    """Return what is known of the model in ``folder``; a damaged one is not available, with the reason."""
    try:
        saved = read(folder)
    except (FileRefusedError, UsageError) as error:
        spec = InputSpec((224, 224))
        return HubModel(str(folder), "folder", None, spec, "unknown", "unreadable", False, str(error))
    here = saved.weights.is_file()
    why_not = "" if here else f"{saved.weights.name} is missing"
    description = f"{saved.model}, {saved.num_classes} classes"
    return HubModel(str(folder), "folder", None, saved.input, saved.license, description, here, why_not)


def is_model_folder(folder: Path) -> bool:
    """Return whether ``folder`` holds a saved model or a finished run."""
    return (folder / CARD).is_file() or (folder / "tune.json").is_file()


def load_folder(folder: Path, *, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Return the model saved in ``folder``.

    Raises:
        UsageError: if there is no model in the folder.
        FileRefusedError: if a file is damaged, names no known architecture, or does not fit it.
    """
    saved = read(folder)
    model = timm.create_model(saved.model, num_classes=saved.num_classes)
    if pretrained:
        tensors, _ = checkpoint.load_tensors(saved.weights)
        checkpoint.load_into(model, tensors)
    facts = {"num_classes": saved.num_classes, "label_names": saved.classes, "license": saved.license}
    declare(model, saved.input, tag="folder", **facts)
    return made_ready(model, num_classes)


def read(folder: Path) -> Saved:
    """Return what ``folder`` says of its model, checked word by word.

    Raises:
        UsageError: if there is no model in the folder.
        FileRefusedError: if the description is damaged or names an unknown architecture.
    """
    if (folder / CARD).is_file():
        card = read_json(folder / CARD)
        return _checked(card, folder, folder / CARD)
    if (folder / "tune.json").is_file():
        tuned = read_json(folder / "tune.json")
        classes = _get(read_json(folder / "data.json"), "classes", list, folder / "data.json")
        card = {**_mapping(tuned, folder / "tune.json"), "classes": classes, "num_classes": len(classes)}
        # What was tuned may itself have come from a folder: then `model` is a path, and no architecture.
        card |= {"model": card.get("architecture", card.get("model")), "weights": "tuned.safetensors"}
        return _checked(card, folder, folder / "tune.json")
    raise UsageError(
        f"{quote(folder)} holds no model: neither {CARD} nor a finished run's tune.json is there."
    )


def _checked(card: Any, folder: Path, file: Path) -> Saved:
    card = _mapping(card, file)
    name = _get(card, "model", str, file)
    # timm also takes names that fetch or open files ("hf-hub:…", "local-dir:…"); only its registry is meant.
    if not timm.is_model(name) or ":" in name:
        raise FileRefusedError(f"{quote(file)} is refused: timm knows no architecture {quote(name)}.")
    count = _get(card, "num_classes", int, file)
    if isinstance(count, bool) or not 0 <= count <= MAX_CLASSES:
        raise FileRefusedError(f"{quote(file)} is refused: {count} classes; at most {MAX_CLASSES:,}.")
    classes = tuple(str(label) for label in card.get("classes") or ())
    if classes and len(classes) != count:
        raise FileRefusedError(f"{quote(file)} is refused: {len(classes)} class names for {count} classes.")
    try:
        spec = InputSpec.from_json(_get(card, "input", dict, file))
    except ValueError as error:
        raise FileRefusedError(f"{quote(file)} is refused: {error}") from None
    weights = _get(card, "weights", str, file)
    if Path(weights).name != weights:
        raise FileRefusedError(
            f"{quote(file)} is refused: weights {quote(weights)} must be a bare file name."
        )
    return Saved(name, count, spec, confine(folder, weights), classes, str(card.get("license", "unknown")))


def _mapping(value: Any, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileRefusedError(f"{quote(file)} is refused: it holds a {type(value).__name__}, not an object.")
    return value


def _get(card: Any, key: str, kind: type, file: Path) -> Any:
    value = _mapping(card, file).get(key)
    if not isinstance(value, kind):
        raise FileRefusedError(f"{quote(file)} is refused: {key!r} must be a {kind.__name__}.")
    return value
