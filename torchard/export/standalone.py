"""Name what is in a picture with an exported model: needs ONNX Runtime, Pillow and NumPy, nothing else.

    python predict.py photo.jpg other.png
    python predict.py --json --model model.onnx photo.jpg

The classes, the input size and the normalisation stand in the model's own metadata.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from torchard.core.pixels import RESAMPLING, image_to_array, open_image

MAX_SIDE = 8192
BATCH = 16


@dataclass(frozen=True)
class OnnxModel:
    """An exported model: its session, its classes in order, and how an image becomes its input."""

    session: onnxruntime.InferenceSession
    classes: tuple[str, ...]
    input: dict[str, Any]

    def predict(self, images: Sequence[Image.Image], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """Return for each image its most probable classes with their probabilities, best first."""
        return [self.best(logits, top=top) for logits in self.logits(images)]

    def logits(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return what the model answers, one row an image, computed in batches of at most 16."""
        rows = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = self.preprocess(images[start : start + BATCH])
            rows.append(self.session.run(["logits"], {"images": batch})[0])
        return np.concatenate(rows)

    def preprocess(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return the images as the model reads them: float32, ``(images, 3, height, width)``, normalised."""
        return np.stack([image_to_array(image, **self.input) for image in images])

    def best(self, logits: np.ndarray, *, top: int = 5) -> list[tuple[str, float]]:
        """Return the `top` classes of one row of logits with their probabilities, best first."""
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [(self.classes[index], float(probabilities[index])) for index in order]


def open_model(path: "str | Path", *, threads: int = 0) -> OnnxModel:
    """Return the exported model in the file `path`; ``threads=0`` takes all cores.

    Raises:
        ValueError: if the file is no ONNX model, or its metadata are not those that torchard writes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads that spin would take the cores from whatever runs beside: torch, or a second model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no base class for its errors
        raise ValueError(
            f"{path} cannot be opened as an ONNX model: {' '.join(str(error).split())[:300]}"
        ) from None
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        classes, settings = _classes(metadata), _input(metadata)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no usable torchard metadata: {type(error).__name__}: {error}") from None
    outputs = {output.name: output.shape for output in session.get_outputs()}
    inputs = {value.name: value.shape for value in session.get_inputs()}
    if outputs.get("logits", [0])[-1] != len(classes) or inputs.get("images", [0])[1:] != [
        3,
        *settings["size"],
    ]:
        raise ValueError(f"{path} does not fit its metadata: {len(classes)} classes, {inputs} → {outputs}")
    return OnnxModel(session, classes, settings)


def read_image(path: "str | Path") -> Image.Image:
    """Return the picture in a file as RGB.

    Raises:
        ValueError: in one line, if there is none that can be read.
    """
    try:
        return open_image(path)
    except Exception as error:  # a decoder raises whatever breaks in it
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(" ".join(reason.split()) or type(error).__name__) from None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Predict the images named on the command line; return 1 if one of them could not be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--model", default=str(Path(__file__).with_name("model.onnx")), help="an exported model"
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to show")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--logits", action="store_true", help="with --json: the model's raw answers too")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    model = open_model(options.model)
    rows = [_answer(model, path, top=options.top, logits=options.logits) for path in options.images]
    print(json.dumps({"images": rows}) if options.json else "\n".join(_line(row) for row in rows))
    return int(any("error" in row for row in rows))


def _answer(model: OnnxModel, path: str, *, top: int, logits: bool) -> dict[str, Any]:
    try:
        image = read_image(path)
    except ValueError as error:
        return {"image": path, "error": str(error)}
    row = model.logits([image])[0]
    found = [{"label": label, "confidence": confidence} for label, confidence in model.best(row, top=top)]
    return {"image": path, "predictions": found, **({"logits": row.tolist()} if logits else {})}


def _line(row: dict[str, Any]) -> str:
    found = [f"{guess['label']} {100 * guess['confidence']:.1f} %" for guess in row.get("predictions", [])]
    return _printable(f"{row['image']}: {', '.join(found) or 'not read: ' + row['error']}")


def _printable(line: str) -> str:
    """`line` without what could break it or command the terminal: names may hold anything."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def _classes(metadata: dict[str, str]) -> tuple[str, ...]:
    classes = json.loads(metadata["classes"])
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError("classes are not a list of names")
    return tuple(classes)


def _input(metadata: dict[str, str]) -> dict[str, Any]:
    """The settings of :func:`image_to_array`, checked: the file may be a stranger's."""
    values = {name: json.loads(metadata[name]) for name in ("size", "mean", "std", "interpolation", "rule")}
    height, width = (int(side) for side in values["size"])
    mean, std = ([float(value) for value in values[name]] for name in ("mean", "std"))
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and len(mean) == len(std) == 3):
        raise ValueError(f"size {values['size']}, mean {values['mean']}, std {values['std']}")
    if not (all(map(math.isfinite, [*mean, *std])) and min(std) > 0):
        raise ValueError(f"mean {mean}, std {std}")
    if values["interpolation"] not in RESAMPLING or values["rule"] not in ("squash", "crop"):
        raise ValueError(f"interpolation {values['interpolation']!r}, rule {values['rule']!r}")
    return {**values, "size": (height, width), "mean": tuple(mean), "std": tuple(std)}


if __name__ == "__main__":
    sys.exit(main())
