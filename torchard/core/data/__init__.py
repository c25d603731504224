"""Images with labels, ready for a model: ``load_task``, ``Loader``, ``metrics``."""

from torchard.core.data.arrays import tensors, uint8_images
from torchard.core.data.augment import default_augment
from torchard.core.data.batch import Batch
from torchard.core.data.load import load_task
from torchard.core.data.loader import Loader
from torchard.core.data.measures import class_weights, metrics
from torchard.core.data.spec import InputSpec, preprocess
from torchard.core.data.split import Split
from torchard.core.data.task import Task, resolution_note

__all__ = [
    "Batch",
    "InputSpec",
    "Loader",
    "Split",
    "Task",
    "class_weights",
    "default_augment",
    "load_task",
    "metrics",
    "preprocess",
    "resolution_note",
    "tensors",
    "uint8_images",
]
