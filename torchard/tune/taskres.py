"""Tune the text classifier of a CLIP-like model by one added vector per class (TaskRes)."""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.core.method import Method
from torchard.tune.adapters.errors import AdapterMismatchError
from torchard.tune.adapters.install import install, refuse_occupied
from torchard.tune.adapters.site_adapter import SiteAdapter
from torchard.tune.adapters.sites import Site
from torchard.tune.adapters.state import AdapterSpec, register
from torchard.tune.interface import (
    activate,
    detach,
    disabled,
    load,
    merge,
    parameter_groups,
    save,
    summary,
    trainable_parameters,
    unmerge,
)
from torchard.tune.text_classifier import (
    CosineClassifier,
    Ensemble,
    ZeroShotClassifier,
    cosine_logits,
    enhanced_text_classifier,
    step_size,
    text_classifier,
)

METHOD = Method(
    shapes=("transform",),
    source="Yu et al., CVPR 2023, arXiv 2211.10277",
    claim="Few-shot adaptation of CLIP with one vector per class, above CoOp and Tip-Adapter-F.",
)

__all__ = [
    "TaskResConfig",
    "TaskResidual",
    "ZeroShotClassifier",
    "activate",
    "attach",
    "detach",
    "disabled",
    "enhanced_text_classifier",
    "fit",
    "load",
    "merge",
    "parameter_groups",
    "save",
    "summary",
    "text_classifier",
    "trainable_parameters",
    "unmerge",
]

Modality = Literal["text", "image"]
Alpha = float | Literal["learnable"]


def attach(
    model: Any,
    classnames: Sequence[str] = (),
    templates: Sequence[str] = ("a photo of a {}.",),
    *,
    alpha: Alpha = 0.5,
    modality: Modality = "text",
    ensemble: Ensemble = "raw",
    name: str = "default",
) -> ZeroShotClassifier:
    """Return a zero-shot classifier with a trainable residual, for training end to end with augmentation.

    ``model`` is a :class:`~torchard.nn.dual_encoder.DualEncoder`, whose texts are encoded once, or a
    :class:`~torchard.tune.text_classifier.ZeroShotClassifier`, which is changed in place. Only the residual
    is trained; ``save`` stores it, ``merge`` folds it into the classifier. On cached features :func:`fit` is
    much faster.

    Raises:
        ValueError: if class names are fewer than two or repeat, a template has no ``{}``, or ``alpha`` is not
            positive.
    """
    config = TaskResConfig(alpha, modality)
    if not isinstance(model, ZeroShotClassifier):
        weight = text_classifier(model, classnames, templates, ensemble)
        model = ZeroShotClassifier(model, weight, classnames, templates)
    config = TaskResConfig(alpha, modality, model.classifier.classnames, model.classifier.templates)
    refuse_occupied(model, name)
    site = Site("classifier", "CosineClassifier", len(model.classifier.weight))
    install(model, _SPEC, config, {"classifier": site}, name=name, also_train=(), check_reach=False)
    return model


def fit(
    text_features: Float[Tensor, "c d"],
    image_features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    alpha: Alpha = 0.5,
    lr: float | Literal["auto"] = "auto",
    epochs: int = 100,
    batch_size: int = 256,
    logit_scale: float = 100.0,
    modality: Modality = "text",
    val: tuple[Float[Tensor, "m d"], Int[Tensor, " m"]] | None = None,
    seed: int = 0,
) -> "TaskResidual":
    """Return the residual trained on cached image features, in seconds.

    Yu et al. 2023, sec. 3.3: cross entropy, Adam, cosine schedule after a first epoch at 1e-5. ``lr="auto"``
    (ours) is their 2e-3 times the root mean square of the text features over that of OpenAI's CLIP, since a
    step of Adam has the size of the rate whatever the features' scale. With ``val`` the best epoch is kept.

    Raises:
        ValueError: if sizes do not agree, labels are out of range, or features hold NaN.
    """
    _check_data(text_features, image_features, labels)
    rate = step_size(text_features, 2e-3) if lr == "auto" else lr
    residual = TaskResidual(text_features, alpha, modality, logit_scale)
    optimizer = torch.optim.Adam(residual.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    best, kept = -1.0, copy.deepcopy(residual.state_dict())
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = epoch_rate(epoch, epochs, rate)
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            loss = F.cross_entropy(residual.logits(image_features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if val is not None:
            with torch.no_grad():
                hits = (residual.logits(val[0]).argmax(dim=1) == val[1]).float().mean().item()
            if hits > best:
                best, kept = hits, copy.deepcopy(residual.state_dict())
    if val is not None:
        residual.load_state_dict(kept)
    return residual


class TaskResidual(nn.Module):
    """Text features plus ``alpha`` times a trained residual, as a classifier of cached image features.

    With ``modality="image"`` one vector is added to every image feature instead.
    """

    text_features: Tensor

    def __init__(
        self,
        text_features: Float[Tensor, "c d"],
        alpha: Alpha = 0.5,
        modality: Modality = "text",
        logit_scale: float = 100.0,
    ) -> None:
        super().__init__()
        TaskResConfig(alpha, modality)
        self.register_buffer("text_features", text_features.detach().clone())
        self.modality = modality
        self.logit_scale = logit_scale
        rows = len(text_features) if modality == "text" else 1
        self.residual = nn.Parameter(text_features.new_zeros(rows, text_features.shape[1]))
        self.alpha: Tensor | float = _as_parameter(alpha)

    def classifier(self) -> Float[Tensor, "c d"]:
        """Return the adapted text features, as raw as those given."""
        return (
            self.text_features + self.alpha * self.residual if self.modality == "text" else self.text_features
        )

    def logits(
        self, image_features: Float[Tensor, "b d"], logit_scale: float | None = None
    ) -> Float[Tensor, "b c"]:
        """Return the scaled cosines of raw image features with every class."""
        scale = self.logit_scale if logit_scale is None else logit_scale
        features = image_features
        if self.modality == "image":
            features = features + self.alpha * self.residual
        return cosine_logits(features, self.classifier(), scale)

    def shares(self) -> Float[Tensor, " c"]:
        """Return how long each residual is relative to its text feature; longer where zero-shot errs."""
        return (self.alpha * self.residual).norm(dim=1) / self.text_features.norm(dim=1)

    def subset(self, indices: Sequence[int] | Int[Tensor, " s"]) -> "TaskResidual":
        """Return the classifier of some of the classes, in the order given."""
        rows = torch.as_tensor(indices)
        residual = self.residual.data[rows] if self.modality == "text" else self.residual.data
        return self._with(self.text_features[rows], residual)

    def extend(self, text_features: Float[Tensor, "e d"]) -> "TaskResidual":
        """Return the classifier with further classes, whose residual is zero."""
        rows = torch.cat([self.text_features, text_features])
        new = torch.zeros_like(text_features)
        residual = torch.cat([self.residual.data, new]) if self.modality == "text" else self.residual.data
        return self._with(rows, residual)

    def to_linear(self) -> nn.Linear:
        """Return a linear layer that gives the logits of image features of unit length."""
        if self.modality != "text":
            raise ValueError("an image residual cannot be folded into the classifier.")
        return CosineClassifier(self.classifier().detach(), self.logit_scale).to_linear()

    def _with(self, text_features: Tensor, residual: Tensor) -> "TaskResidual":
        alpha = float(self.alpha.detach()) if isinstance(self.alpha, Tensor) else self.alpha
        found = TaskResidual(text_features, alpha, self.modality, self.logit_scale)
        found.residual.data.copy_(residual)
        return found


def epoch_rate(epoch: int, epochs: int, rate: float) -> float:
    """Return the learning rate of an epoch: 1e-5 in the first, then half a cosine down."""
    if epoch == 0 and epochs > 1:
        return 1e-5
    return 0.5 * rate * (1 + math.cos(math.pi * epoch / epochs))


@dataclass(frozen=True)
class TaskResConfig:
    """The settings of :func:`attach` that are stored, with the classes in the residual's order.

    ``templates`` tell how the text features were made; nothing is computed from them.
    """

    alpha: Alpha = 0.5
    modality: str = "text"
    classnames: Sequence[str] = ()
    templates: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.alpha != "learnable" and not (isinstance(self.alpha, int | float) and self.alpha > 0):
            raise ValueError(f"`alpha={self.alpha!r}` must be positive or 'learnable'.")
        if self.modality not in ("text", "image"):
            raise ValueError(f"`modality={self.modality!r}` must be 'text' or 'image'.")


class ResidualAdapter(SiteAdapter):
    """A residual at a :class:`CosineClassifier`; rows are in the order of the classes it was made for."""

    def __init__(self, layer: CosineClassifier, config: TaskResConfig) -> None:
        super().__init__()
        # In a tuple, so that the classifier is not registered as a child of its own adapter.
        self.layer = (layer,)
        self.modality = config.modality
        self.rows = _row_order(layer.classnames, config.classnames)
        count = len(layer.weight) if config.modality == "text" else 1
        self.residual = nn.Parameter(layer.weight.new_zeros(count, layer.weight.shape[1]))
        self.alpha: Tensor | float = _as_parameter(config.alpha)

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        """Only a residual of the text features folds into the classifier."""
        return self.modality == "text"

    def forward(self, output: Any, inputs: tuple[Any, ...]) -> Tensor:
        """Return the logits of the adapted classifier for the same image features."""
        (layer,) = self.layer
        features, weight = inputs[0], layer.weight
        if self.modality == "image":
            features = features + self.alpha * self.residual
        else:
            weight = weight + self._shift()
        return cosine_logits(features, weight, layer.scale)

    def folded_parameter(self, layer: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
        """Return the text features with the residual added."""
        return value + self._shift() if name == "weight" and value is not None else value

    def _shift(self) -> Tensor:
        rows = self.residual if self.rows is None else self.residual[list(self.rows)]
        return self.alpha * rows


def _build(
    layer: nn.Module, _site: Site, config: TaskResConfig, _shared: nn.Module | None
) -> ResidualAdapter:
    if not isinstance(layer, CosineClassifier):
        raise AdapterMismatchError(
            f"a TaskRes residual belongs to a zero-shot classifier, not {type(layer).__name__}."
        )
    return ResidualAdapter(layer, config)


_SPEC = register(AdapterSpec("taskres", 1, TaskResConfig, _build))


def _row_order(here: Sequence[str], stored: Sequence[str]) -> tuple[int, ...] | None:
    """Which stored row serves each class here; ``None`` if the orders agree."""
    if list(here) == list(stored):
        return None
    if sorted(here) != sorted(stored):
        odd = sorted(set(here) ^ set(stored))
        raise AdapterMismatchError(
            f"the residual is for other classes; they differ in {', '.join(odd[:10])}."
        )
    return tuple(list(stored).index(name) for name in here)


def _as_parameter(alpha: Alpha) -> nn.Parameter | float:
    return nn.Parameter(torch.tensor(0.5)) if alpha == "learnable" else float(alpha)


def _check_data(text_features: Tensor, image_features: Tensor, labels: Tensor) -> None:
    if text_features.shape[1] != image_features.shape[1]:
        raise ValueError(
            f"`text_features` have {text_features.shape[1]} columns, "
            f"`image_features` {image_features.shape[1]}."
        )
    if len(labels) == 0 or len(labels) != len(image_features):
        raise ValueError(
            f"{len(image_features)} `image_features` for {len(labels)} `labels`; need as many, and one."
        )
    count = len(text_features)
    if count < 2 or not bool(((labels >= 0) & (labels < count)).all()):
        raise ValueError(f"`labels` must lie in 0…{count - 1} and there must be two classes at least.")
    if not bool(torch.isfinite(text_features).all() and torch.isfinite(image_features).all()):
        raise ValueError("features hold NaN or infinity.")
    if bool((text_features.norm(dim=1) == 0).any()):
        raise ValueError("`text_features` has a row of zeros.")
    absent = sorted(set(range(count)) - set(labels.unique().tolist()))
    if absent:
        warnings.warn(
            f"classes {absent[:10]} have no example; their residual moves only away from the others.",
            stacklevel=3,
        )
