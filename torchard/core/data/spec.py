"""What a model wants to see: size, normalisation and the rule that brings any image there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from PIL import Image

from torchard.core.pixels import image_to_array

Interpolation = Literal["bilinear", "bicubic"]
Rule = Literal["squash", "crop"]
MAX_SIDE = 8192


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A model's input: ``size`` (height, width), ``mean`` and ``std`` of values in 0…1, and the resize rule.

    ``rule="squash"`` scales the whole image to ``size``; ``"crop"`` takes its largest centred box of that
    shape.

    Raises:
        ValueError: if a field is out of range.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    rule: Rule = "squash"

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_SIDE for side in self.size):
            raise ValueError(f"`size={self.size}` must be (height, width), each from 1 to {MAX_SIDE}")
        if not (np.isfinite([*self.mean, *self.std]).all() and min(self.std) > 0):
            raise ValueError(f"`mean={self.mean}`, `std={self.std}` must be finite, and `std` positive")
        for name, known in (("interpolation", get_args(Interpolation)), ("rule", get_args(Rule))):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}={getattr(self, name)!r}` is unknown; choose {' or '.join(known)}")

    def resized(self, size: tuple[int, int]) -> "InputSpec":
        """Return the same spec at another size."""
        return replace(self, size=size)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and strings, as :meth:`from_json` reads them."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "InputSpec":
        """Return the spec that :meth:`to_json` wrote.

        Raises:
            ValueError: if ``value`` holds anything else.
        """
        try:
            height, width = (int(side) for side in value["size"])
            return cls(
                size=(height, width),
                mean=_three(value["mean"]),
                std=_three(value["std"]),
                interpolation=value["interpolation"],
                rule=value["rule"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not an input spec: {error} in {str(value)[:200]}") from None


def preprocess(image: Image.Image, spec: InputSpec) -> Float[np.ndarray, "3 h w"]:
    """Return ``image`` as the model reads it; every other way in torchard equals this one bit for bit.

    Raises:
        ValueError: if the image is too large or its pixel type has no defined conversion.
    """
    return image_to_array(
        image, size=spec.size, mean=spec.mean, std=spec.std, interpolation=spec.interpolation, rule=spec.rule
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
