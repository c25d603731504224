"""The same image files through the eager model and through an exported one: the labels must agree."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from torchard.core.data import InputSpec, preprocess
from torchard.core.errors import ExportMismatchError, UsageError
from torchard.core.files import quote, replacing
from torchard.core.pixels import open_image, to_rgb
from torchard.core.surgery import flags_kept
from torchard.export.script import script
from torchard.export.standalone import softmax

Picture = Path | Image.Image
_BATCH = 16
_FILES_PER_PROCESS = 200
# Names torch and ourselves as absent before the script starts, so that it cannot lean on them unseen.
_WITHOUT_TORCH = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "torchard"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class ExportReport:
    """An exported file that was found to answer as the eager model does."""

    path: Path
    bytes: int
    images: int
    max_abs_diff: float

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self.bytes / 1e6:.2f} MB, {self.images} images, same labels, "
            f"largest difference {self.max_abs_diff:.1e}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what stands in ``export.json``; the labels were equal, or there would be no report."""
        return {
            "file": self.path.name,
            "bytes": self.bytes,
            "images": self.images,
            "max_abs_diff": self.max_abs_diff,
            "labels_equal": True,
        }


@contextmanager
def checked_file(path: Path, *, needed: int) -> Iterator[Path]:
    """Give a temporary path to write to and check; on leaving it takes `path`'s place.

    Where the block finds a mismatch the file becomes ``.rejected`` instead, and the error says so.
    """
    rejected = path.with_name(path.name + ".rejected")
    with replacing(path, needed=needed) as unchecked:
        try:
            yield unchecked
        except ExportMismatchError as error:
            unchecked.replace(rejected)
            raise ExportMismatchError(f"{error} The file is kept as {rejected.name}.") from None
    rejected.unlink(missing_ok=True)


@contextmanager
def as_files(images: Sequence[Picture]) -> Iterator[list[Path]]:
    """Give every image as a file: paths as they are, pictures in memory as PNG, which keeps every pixel.

    Raises:
        UsageError: if there are none, since an export nobody checked is not to be trusted.
    """
    if not images:
        raise UsageError("`images` is empty: give a few image files to check the exported model on, say 16.")
    with tempfile.TemporaryDirectory(prefix="torchard-") as folder:
        yield [_as_file(image, Path(folder) / f"{index}.png") for index, image in enumerate(images)]


def eager_logits(
    model: nn.Module, files: Sequence[Path], spec: InputSpec, *, classes: Sequence[str]
) -> Float[np.ndarray, "n c"]:
    """Return what `model` answers in evaluation mode; its flags are as before afterwards.

    Raises:
        ValueError: if `classes` does not fit the answers, or one is not finite; the image is named.
    """
    model = uncompiled(model)
    parameter = next(model.parameters(), torch.zeros(()))
    with flags_kept(model), torch.inference_mode():
        model.eval()
        logits = apply(lambda batch: model(batch.to(parameter)).float().cpu(), files, spec)
    if logits.shape[1] != len(classes):
        raise ValueError(f"`classes` has {len(classes)} names, the model {logits.shape[1]} outputs.")
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        name = quote(files[int(broken.argmax())])
        raise ValueError(f"{type(model).__name__} answers {name} with NaN or infinity; it was not exported.")
    return logits


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, or `model` itself."""
    return getattr(model, "_orig_mod", model)


def apply(
    call: Callable[[Tensor], Tensor], files: Sequence[Path], spec: InputSpec, *, batch: int = _BATCH
) -> Float[np.ndarray, "n c"]:
    """Return the answers of `call` to the files, read and preprocessed by the reference."""
    rows = []
    for start in range(0, len(files), batch):
        arrays = [preprocess(open_image(file), spec) for file in files[start : start + batch]]
        rows.append(call(torch.from_numpy(np.stack(arrays))).numpy())
    return np.concatenate(rows)


def fresh_process_logits(model: Path, files: Sequence[Path]) -> Float[np.ndarray, "n c"]:
    """Return the ONNX file's answers from a new process that runs the standalone script and has no torch.

    About a second for every 200 files, besides the model's own time.

    Raises:
        ExportMismatchError: if the script fails; its last line of error is told.
    """
    with tempfile.TemporaryDirectory(prefix="torchard-") as folder:
        program = Path(folder) / "predict.py"
        program.write_text(script(), encoding="utf-8")
        starts = range(0, len(files), _FILES_PER_PROCESS)
        chunks = [files[start : start + _FILES_PER_PROCESS] for start in starts]
        return np.concatenate([_run(program, model, chunk) for chunk in chunks])


def compare(
    expected: Float[np.ndarray, "n c"],
    answered: Float[np.ndarray, "n c"],
    files: Sequence[Path],
    *,
    atol: float,
) -> float:
    """Return the largest absolute difference of the logits.

    Logits have no scale of their own, and float32 carries seven digits of whatever they have: a confident
    model's may be in the hundreds. So probabilities are held to `atol`, logits to `atol` of the image's
    largest one where that is above 1.

    Raises:
        ExportMismatchError: if a label differs, or more than `atol` allows; the image is named.
    """
    for file, ours, theirs in zip(files, expected, answered, strict=True):
        difference, scale = np.abs(ours - theirs).max(), max(1.0, float(np.abs(ours).max()))
        probable = np.abs(softmax(ours) - softmax(theirs)).max()
        if ours.argmax() != theirs.argmax():
            raise ExportMismatchError(
                f"{quote(file)} is class {ours.argmax()} to the eager model and {theirs.argmax()} to the "
                f"exported one; their logits differ by {difference:.1e}."
            )
        if not (difference <= atol * scale and probable <= atol):
            raise ExportMismatchError(
                f"{quote(file)}: logits differ by {difference:.1e} and probabilities by {probable:.1e}; "
                f"{atol:.0e} is allowed."
            )
    return float(np.abs(expected - answered).max())


def _as_file(image: Picture, path: Path) -> Path:
    if isinstance(image, Path):
        return image.absolute()
    to_rgb(image).save(path, compress_level=1)
    return path


def _run(program: Path, model: Path, files: Sequence[Path]) -> np.ndarray:
    command = [sys.executable, "-I", "-c", _WITHOUT_TORCH, str(program), "--json", "--logits"]
    command += ["--model", str(model.absolute()), "--", *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=False)
    try:
        rows = json.loads(done.stdout)["images"]
        return np.asarray([row["logits"] for row in rows], dtype=np.float32)
    except (ValueError, KeyError):
        told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["no answer"]
        raise ExportMismatchError(f"The exported model does not run on its own: {told[-1][:500]}") from None
