import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from torchard.core.data import InputSpec, preprocess
from torchard.core.pixels import image_to_array

sides = st.integers(1, 512)
numbers = st.floats(-10, 10)
positive = st.floats(0.01, 10)
specs = st.builds(
    InputSpec,
    size=st.tuples(sides, sides),
    mean=st.tuples(numbers, numbers, numbers),
    std=st.tuples(positive, positive, positive),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    rule=st.sampled_from(["squash", "crop"]),
)


@given(specs)
def test_a_spec_survives_json(spec):
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_preprocess_is_the_standalone_function():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    spec = InputSpec((16, 24), interpolation="bicubic", rule="crop")
    expected = image_to_array(
        image, size=(16, 24), mean=spec.mean, std=spec.std, interpolation="bicubic", rule="crop"
    )
    assert np.array_equal(preprocess(image, spec), expected)
    assert preprocess(image, spec).shape == (3, 16, 24)


def test_resized_changes_the_size_alone():
    spec = InputSpec((224, 224), rule="crop")
    assert spec.resized((160, 160)) == InputSpec((160, 160), rule="crop")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 5)}, "size"),
        ({"size": (5, 100_000)}, "size"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"rule": "pad"}, "rule"),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes, message):
    good = InputSpec((8, 8)).to_json()
    with pytest.raises(ValueError, match=message):
        InputSpec.from_json(good | changes)


@pytest.mark.parametrize("value", [{}, {"size": [1]}, {"size": "ab"}, {"size": [8, 8], "mean": 1}])
def test_json_that_is_no_spec_is_refused(value):
    with pytest.raises(ValueError, match="not an input spec"):
        InputSpec.from_json(value)
