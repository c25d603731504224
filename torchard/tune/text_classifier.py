"""Classifiers made of texts: what a CLIP-like model knows of classes from their names alone."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchard.nn.dual_encoder import DualEncoder

Ensemble = Literal["raw", "normalized"]
REFERENCE_RMS = 10 / math.sqrt(1024)  # of OpenAI's text features, for which the published rates were chosen


def text_classifier(
    encoder: DualEncoder,
    classnames: Sequence[str],
    templates: Sequence[str],
    ensemble: Ensemble = "raw",
) -> Float[Tensor, "c d"]:
    """Return one raw text feature per class, the mean over the templates.

    ``"raw"`` averages features as they are, which TaskRes presumes; ``"normalized"`` averages them at unit
    length, as CLIP's prompt ensembles do, and gives the mean back the raw features' mean length.

    Raises:
        ValueError: if class names are fewer than two or repeat, or a template has no ``{}``.
    """
    _check_names(classnames, templates)
    with torch.no_grad():
        tokens = encoder.tokenize([t.format(name) for name in classnames for t in templates])
        features = encoder.encode_text(tokens).unflatten(0, (len(classnames), len(templates)))
    return _averaged(features, ensemble)


def enhanced_text_classifier(
    encoder: Any,
    classnames: Sequence[str],
    templates: Sequence[str],
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    epochs: int = 50,
    lr: float | Literal["auto"] = "auto",
    ensemble: Ensemble = "raw",
    seed: int = 0,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, "w d"]]:
    """Return the text features under a text projection adapted to the few shots, and that projection.

    Yu et al. 2023, sec. 3.4, whose training code is not published: cross entropy by Adam on the projection
    alone, from the model's own, on cached states. With four shots a class or more, the epoch best on a fifth
    left out is kept, else the last. An encoder without ``text_states`` gets a square matrix after its
    features, from the identity.

    Raises:
        ValueError: as :func:`text_classifier`, or if sizes do not agree.
    """
    _check_names(classnames, templates)
    states, projection = _states_and_projection(encoder, classnames, templates)
    if features.shape[1] != projection.shape[1]:
        raise ValueError(
            f"`features` have {features.shape[1]} columns, the text features {projection.shape[1]}."
        )
    scale = float(encoder.logit_scale.detach())
    start = _averaged(states @ projection, ensemble)
    rate = step_size(start, 2e-5) if lr == "auto" else lr
    train, held = _left_out(labels, len(classnames), seed)
    matrix = projection.clone().requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=rate)
    best, kept = -1.0, projection
    for _ in range(epochs):
        logits = cosine_logits(features[train], _averaged(states @ matrix, ensemble), scale)
        loss = F.cross_entropy(logits, labels[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            found = cosine_logits(features[held], _averaged(states @ matrix, ensemble), scale)
        hits = (found.argmax(dim=1) == labels[held]).float().mean().item() if len(held) else math.inf
        if hits >= best:
            best, kept = hits, matrix.detach().clone()
    return _averaged(states @ kept, ensemble), kept


class CosineClassifier(nn.Module):
    """Scaled cosines of image features with one vector per class."""

    weight: Tensor
    scale: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "c d"],
        logit_scale: float | Float[Tensor, ""],
        classnames: Sequence[str] = (),
        templates: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("scale", torch.as_tensor(logit_scale).detach().clone().to(weight))
        self.classnames = tuple(classnames)
        self.templates = tuple(templates)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Return the logits of raw image features."""
        return cosine_logits(features, self.weight, self.scale)

    def to_linear(self) -> nn.Linear:
        """Return a linear layer that gives the same logits for image features of unit length."""
        classes, width = self.weight.shape
        linear = nn.Linear(width, classes, bias=False, device=self.weight.device, dtype=self.weight.dtype)
        linear.weight.data.copy_(self.scale * F.normalize(self.weight, dim=-1))
        return linear


class ZeroShotClassifier(nn.Module):
    """Images to logits: an encoder's image tower and a classifier made of texts."""

    def __init__(
        self,
        encoder: Any,
        text_features: Float[Tensor, "c d"],
        classnames: Sequence[str] = (),
        templates: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if text_features.shape[1] != encoder.embed_dim:
            raise ValueError(
                f"`text_features` have {text_features.shape[1]} columns, the encoder gives "
                f"{encoder.embed_dim}."
            )
        if bool((text_features.norm(dim=1) == 0).any()):
            raise ValueError("`text_features` has a row of zeros.")
        self.encoder = encoder
        self.classifier = CosineClassifier(text_features, encoder.logit_scale, classnames, templates)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of preprocessed images."""
        logits: Tensor = self.classifier(self.encoder.encode_image(images))
        return logits

    def to_linear(self) -> nn.Linear:
        """Return the classifier as a linear layer on image features of unit length."""
        return self.classifier.to_linear()


def cosine_logits(
    features: Float[Tensor, "b d"], weight: Float[Tensor, "c d"], scale: float | Float[Tensor, ""]
) -> Float[Tensor, "b c"]:
    """Return ``scale`` times the cosines of every feature with every row of ``weight``."""
    return scale * F.normalize(features, dim=-1) @ F.normalize(weight, dim=-1).T


def step_size(text_features: Float[Tensor, "c d"], published: float) -> float:
    """Return a published learning rate for text features of another scale than OpenAI's (ours)."""
    rms = text_features.square().mean().sqrt().item()
    return min(max(published * rms / REFERENCE_RMS, min(1e-4, published)), 1e-1)


def _averaged(features: Float[Tensor, "c t d"], ensemble: Ensemble) -> Float[Tensor, "c d"]:
    if ensemble == "raw":
        return features.mean(dim=1)
    directions = F.normalize(F.normalize(features, dim=-1).mean(dim=1), dim=-1)
    return directions * features.norm(dim=-1).mean()


def _states_and_projection(
    encoder: Any, classnames: Sequence[str], templates: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """States (c, t, w) and the matrix that turns them into features."""
    tokens = encoder.tokenize([t.format(name) for name in classnames for t in templates])
    with torch.no_grad():
        if hasattr(encoder, "text_states"):
            states = encoder.text_states(encoder.embed_tokens(tokens), tokens)
            projection = encoder.text_projection().detach().clone()
        else:
            states = encoder.encode_text(tokens)
            projection = torch.eye(states.shape[1], dtype=states.dtype, device=states.device)
    return states.unflatten(0, (len(classnames), len(templates))), projection


def _left_out(labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and a fifth of each class to choose by, where there are four of each at least."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if int(labels.bincount(minlength=classes).min()) < 4:
        return order, order[:0]
    held = torch.cat(
        [rows[: max(1, len(rows) // 5)] for c in range(classes) if len(rows := order[labels[order] == c])]
    )
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[held] = True
    return order[~chosen[order]], held


def _check_names(classnames: Sequence[str], templates: Sequence[str]) -> None:
    repeated = sorted({name for name in classnames if list(classnames).count(name) > 1})
    if len(classnames) < 2 or repeated:
        raise ValueError(
            f"`classnames` must be two or more, each once; given {len(classnames)}, repeated: {repeated}."
        )
    if not templates or any(len(re.findall(r"\{\}", template)) != 1 for template in templates):
        raise ValueError(
            f"every one of `templates={list(templates)!r}` must contain '{{}}' once, for the class."
        )
