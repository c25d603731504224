"""core.checkpoint: what goes in comes out to the last bit, and damaged files change nothing."""

import json
import math
import os
import random
import resource
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from torchard.core import checkpoint
from torchard.core.errors import FileRefusedError


def same(left, right) -> bool:
    """Equal in type, order and bits, all the way down."""
    if type(left) is not type(right):
        return False
    match left:
        case torch.Tensor():
            return (
                left.dtype == right.dtype
                and left.shape == right.shape
                and left.reshape(-1).view(torch.uint8).equal(right.reshape(-1).view(torch.uint8))
            )
        case dict():
            return len(left) == len(right) and all(
                same(a, b) for pair in zip(left.items(), right.items()) for a, b in zip(*pair)
            )
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case float():
            return struct.pack("d", left) == struct.pack("d", right)
    return left == right


def round_trip(state, tmp_path):
    checkpoint.save(tmp_path / "state.safetensors", state)
    return checkpoint.load(tmp_path / "state.safetensors")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = scalars | st.tuples(st.integers(), st.text(max_size=2))
tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.sampled_from(
        [
            torch.float32,
            torch.bfloat16,
            torch.int64,
            torch.bool,
            torch.uint8,
            torch.complex64,
            torch.float8_e5m2,
        ]
    ),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 100),
)
states = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys.filter(lambda key: key == key), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(state=states)
def test_any_state_comes_back_exactly(state, tmp_path_factory):
    assert same(round_trip(state, tmp_path_factory.getbasetemp()), state)


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        math.nan,
        -0.0,
        5e-324,
        0.1 + 0.2,
        struct.unpack("d", b"\x01\0\0\0\0\0\xf8\x7f")[0],
    ],
    ids=str,
)
def test_every_float_keeps_its_bits(tmp_path, value):
    assert same(round_trip({"lr": value}, tmp_path), {"lr": value})


def test_optimizer_and_scheduler_state_comes_back_exactly(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.3}]
    )
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    assert same(round_trip(state, tmp_path), state)


def test_random_states_go_on_where_they_were(tmp_path):
    generator = np.random.default_rng(3)
    legacy = np.random.RandomState(3)
    python = random.Random(3)
    name, words, *rest = legacy.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "generator": generator.bit_generator.state,
        "legacy": (name, torch.from_numpy(words.astype("int64")), *rest),
        "python": python.getstate(),
    }
    expected = (generator.random(), python.random())
    back = round_trip(state, tmp_path)
    generator.bit_generator.state = back["generator"]
    python.setstate(back["python"])
    assert (generator.random(), python.random()) == expected
    assert same(back["torch"], state["torch"])


def test_one_tensor_in_two_places_stays_one(tmp_path):
    tensor = torch.arange(4.0)
    back = round_trip({"a": tensor, "b": [tensor], "part": tensor[:2]}, tmp_path)
    assert back["a"] is back["b"][0]
    assert back["part"].tolist() == [0, 1]
    assert (tmp_path / "state.safetensors").stat().st_size < 1000


def test_equal_but_separate_tensors_stay_separate(tmp_path):
    back = round_trip([torch.zeros(0), torch.zeros(0), torch.zeros(2), torch.zeros(2)], tmp_path)
    assert len({id(tensor) for tensor in back}) == 4


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(2, 1, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(8, 16, 1, 1).to(memory_format=torch.channels_last),
        torch.randn(3, 4).T,
        torch.randn(2, 3, 4).permute(2, 0, 1),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}{tensor.stride()}",
)
def test_dense_strides_are_kept(tmp_path, tensor):
    back = round_trip(tensor, tmp_path)
    assert back.stride() == tensor.stride()
    assert back.equal(tensor)


@pytest.mark.parametrize(
    "tensor", [torch.randn(4, 4)[::2, 1:], torch.ones(1).expand(3, 2)], ids=["strided", "expanded"]
)
def test_what_is_not_dense_comes_back_contiguous(tmp_path, tensor):
    back = round_trip(tensor, tmp_path)
    assert back.is_contiguous()
    assert back.equal(tensor)


def test_parameters_and_lazy_conjugates_are_values(tmp_path):
    complex_ = torch.tensor([1 + 2j]).conj()
    back = round_trip([nn.Parameter(torch.ones(2)), complex_], tmp_path)
    assert type(back[0]) is torch.Tensor
    assert back[1].tolist() == [1 - 2j]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {2}]}, r"state\['a'\]\[1\] is a builtins.set"),
        ({"a": np.int64(3)}, r"numpy.int64"),
        ({"f": print}, r"builtin_function"),
        ({frozenset(): 1}, r"frozenset"),
        ({(torch.ones(1),): 1}, r"tensor for a key"),
        ([torch.ones(2).to_sparse()], r"sparse"),
        ([torch.ones(2, device="meta")], r"meta"),
        ([torch.ones(1, dtype=torch.complex128)], r"complex128"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_checkpoint_cannot_hold_is_named(tmp_path, state, place):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, 1)
    with pytest.raises(TypeError, match=place):
        checkpoint.save(path, state)
    assert checkpoint.load(path) == 1


def test_state_that_contains_itself_is_refused(tmp_path):
    state: list = []
    state.append(state)
    with pytest.raises(ValueError, match="contain itself"):
        checkpoint.save(tmp_path / "a", state)


def test_saving_over_the_file_loaded_from_keeps_the_loaded_values(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save_tensors(path, {"a": torch.arange(1000)})
    tensors, _ = checkpoint.load_tensors(path)
    path.write_bytes(os.urandom(path.stat().st_size))  # even in place
    assert tensors["a"].equal(torch.arange(1000))
    checkpoint.save_tensors(path, {"a": tensors["a"] + 1})
    assert tensors["a"].equal(torch.arange(1000))
    assert checkpoint.load_tensors(path)[0]["a"].equal(torch.arange(1000) + 1)


def test_a_full_disk_is_told_with_the_bytes_needed_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"w": torch.ones(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"No space to write .*: 400,\d\d\d bytes needed") as caught:
            checkpoint.save(path, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert checkpoint.load(path)["w"].equal(torch.ones(10))
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_files_are_those_of_the_safetensors_library(tmp_path):
    tensors = {
        "w": torch.randn(3, 2).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "é\n": torch.tensor(True),
        "none": torch.zeros(0, 4),
    }
    checkpoint.save_tensors(tmp_path / "ours", tensors, {"kind": "tést"})
    theirs = load_file(tmp_path / "ours")
    assert same(dict(sorted(theirs.items())), dict(sorted(tensors.items())))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", {"kind": "x"}
    )
    back, metadata = checkpoint.load_tensors(tmp_path / "theirs")
    assert same(dict(sorted(back.items())), dict(sorted(tensors.items())))
    assert metadata == {"kind": "x"}
    assert checkpoint.load_tensors(tmp_path / "ours")[1] == {"kind": "tést"}


def test_weights_alone_are_no_state(tmp_path):
    checkpoint.save_tensors(tmp_path / "a", {"w": torch.ones(1)})
    with pytest.raises(FileRefusedError, match="weights at most"):
        checkpoint.load(tmp_path / "a")


def write(path, header, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(start: int, stop: int, shape=None, dtype: str = "U8") -> dict:
    return {
        "dtype": dtype,
        "shape": [stop - start] if shape is None else shape,
        "data_offsets": [start, stop],
    }


DAMAGE = {
    "length over the end": ({"a": entry(0, 4)}, b"1234", 1000, "cut short"),
    "header of 200 MB": ({"a": entry(0, 4)}, b"1234", 200_000_000, "over 100,000,000"),
    "length of 2^64-1": ({}, b"", 2**64 - 1, "over 100,000,000"),
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456", None, "overlaps"),
    "twice the same bytes": ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234", None, "overlaps"),
    "hole": ({"a": entry(0, 2), "b": entry(3, 4)}, b"1234", None, "hole"),
    "hole at the start": ({"a": entry(1, 4)}, b"1234", None, "hole"),
    "trailing bytes": ({"a": entry(0, 4)}, b"12345", None, "1 bytes after"),
    "data cut": ({"a": entry(0, 4)}, b"123", None, "cut short"),
    "negative offset": ({"a": entry(-4, 0)}, b"1234", None, "data_offsets"),
    "stop before start": ({"a": entry(4, 0)}, b"1234", None, "shape"),
    "negative size": ({"a": entry(0, 4, [-4])}, b"1234", None, "shape"),
    "two negative sizes": ({"a": entry(0, 4, [-2, -2])}, b"1234", None, "shape"),
    "true as a size": ({"a": entry(0, 1, [True])}, b"1", None, "shape"),
    "float as a size": ({"a": entry(0, 1, [1.0])}, b"1", None, "shape"),
    "size of 2^70": ({"a": entry(0, 0, [2**70, 0])}, b"", None, "shape"),
    "product beyond the data": ({"a": entry(0, 4, [2**62, 4])}, b"1234", None, "needs"),
    "wrong size for type": ({"a": entry(0, 4, [4], "F32")}, b"1234", None, "needs 16 bytes, has 4"),
    "unknown type": ({"a": entry(0, 4, [4], "X9")}, b"1234", None, "unknown type"),
    "type no text": ({"a": entry(0, 4, [4], ["U8"])}, b"1234", None, "unknown type"),
    "missing field": ({"a": {"dtype": "U8", "shape": [4]}}, b"1234", None, "must have"),
    "extra field": ({"a": entry(0, 4) | {"call": "os.system"}}, b"1234", None, "must have"),
    "entry no object": ({"a": 3}, b"1234", None, "must have"),
    "duplicate keys": (
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":0}',
        b"",
        None,
        "duplicate",
    ),
    "metadata no text": ({"__metadata__": {"a": 1}}, b"", None, "metadata"),
    "metadata a list": ({"__metadata__": []}, b"", None, "metadata"),
    "header a list": (b"[]", b"", None, "brace"),
    "header no JSON": (b"{]", b"", None, "JSON"),
    "header no UTF-8": (b'{"\xff": 1}', b"", None, "JSON"),
    "deep header": (b'{"a":' * 5000 + b"0" + b"}" * 5000, b"", None, "deep"),
    "empty header": (b"", b"", None, "brace"),
}


@pytest.mark.parametrize("case", DAMAGE, ids=str)
def test_damage_is_one_line(tmp_path, case):
    header, data, length, words = DAMAGE[case]
    path = tmp_path / "a\nb.safetensors"
    write(path, header, data, length)
    with pytest.raises(FileRefusedError, match=words) as caught:
        checkpoint.load_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_sound_small_files_pass(tmp_path):
    write(tmp_path / "a", {"a": entry(0, 4), "b": entry(4, 4, [0, 7]), "__metadata__": {}}, b"1234")
    tensors, _ = checkpoint.load_tensors(tmp_path / "a")
    assert tensors["a"].tolist() == list(b"1234")
    assert tensors["b"].shape == (0, 7)


def test_odd_bytes_of_truth_values_become_true(tmp_path):
    write(tmp_path / "a", {"a": entry(0, 3, dtype="BOOL")}, b"\x00\x01\x07")
    tensor = checkpoint.load_tensors(tmp_path / "a")[0]["a"]
    assert tensor.view(torch.uint8).tolist() == [0, 1, 1]


def test_truncation_at_fifty_places_is_refused(tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, {"w": torch.randn(100), "step": 3})
    whole = path.read_bytes()
    for keep in random.Random(0).sample(range(len(whole)), 50):
        path.write_bytes(whole[:keep])
        with pytest.raises(FileRefusedError) as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [checkpoint.save, checkpoint.save_tensors])
def test_one_flipped_bit_among_the_data_is_noticed(tmp_path, save):
    save(tmp_path / "a", {"w": torch.arange(8.0)})
    data = bytearray((tmp_path / "a").read_bytes())
    data[-5] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(FileRefusedError, match="checksum"):
        checkpoint.load_tensors(tmp_path / "a")


def test_ten_thousand_random_edits_are_refused_or_harmless(tmp_path):
    path = tmp_path / "a"
    state = {"w": torch.randn(3), "flags": torch.tensor([True, False]), "lr": (0.1, math.inf), 5: ["x", None]}
    checkpoint.save(path, state)
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = multiline = 0
    for _ in range(10_000):
        path.write_bytes(_edited(whole, draw))
        try:
            back = checkpoint.load(path)
        except FileRefusedError as error:
            refused += 1
            multiline += "\n" in str(error)
        else:
            assert same(back, state)
    assert refused > 9_000
    assert multiline == 0


def _edited(whole: bytes, draw: random.Random) -> bytes:
    """A byte or a few changed, inserted, dropped, doubled or swapped."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data))
        kind = draw.randrange(5)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.choice(b'0123456789[]{}",:-e \x00\xff')
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.randint(1, 9))
        elif kind == 3:
            del data[at : at + draw.randint(1, 9)]
        else:
            other = draw.randrange(len(data))
            data[at], data[other] = data[other], data[at]
    return bytes(data)


def test_random_edits_of_a_strangers_weights_are_refused_or_loaded(tmp_path):
    """Without a checksum changed values pass, but nothing else than our error may come out."""
    path = tmp_path / "a"
    save_file({"w": torch.randn(3), "flags": torch.tensor([True, False])}, path, {"kind": "x"})
    whole = path.read_bytes()
    draw = random.Random(1)
    for _ in range(2_000):
        path.write_bytes(_edited(whole, draw))
        try:
            tensors, _ = checkpoint.load_tensors(path)
        except FileRefusedError:
            continue
        assert all(torch.isfinite(tensor).sum() >= 0 for tensor in tensors.values())


FORGED = [
    {"tensor": "9"},
    {"tensor": 0},
    {"tensor": ["0"]},
    {"tensor": "0", "stride": [1 << 61]},
    {"tensor": "0", "stride": [-1]},
    {"tensor": "0", "stride": [1, 1]},
    {"tensor": "0", "stride": 3},
    {"tuple": 3},
    {"float": "zz"},
    {"float": "00"},
    {"float": 1},
    {"dict": [[1]]},
    {"dict": [[{"dict": []}, 1]]},
    {"dict": [["a", 1], ["a", 2]]},
    {"dict": 1},
    {"__class__": "os.system"},
    {},
]


@pytest.mark.parametrize("structure", FORGED, ids=json.dumps)
def test_forged_structure_with_a_true_checksum_is_refused(tmp_path, structure):
    path = tmp_path / "a"
    metadata = {"torchard.state": json.dumps({"dict": [["w", structure]]})}
    checkpoint.save_tensors(path, {"0": torch.ones(4)}, metadata)
    with pytest.raises(FileRefusedError) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("deep", ["[" * 201 + "]" * 201, "[" * 5000, '{"tuple":[' * 101 + "]}" * 101])
def test_deeply_forged_structure_is_refused(tmp_path, deep):
    checkpoint.save_tensors(tmp_path / "a", {}, {"torchard.state": deep})
    with pytest.raises(FileRefusedError) as caught:
        checkpoint.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_load_into_fills_parameters_and_buffers_in_place():
    model, other = small_model(), small_model()
    other[1].running_mean.fill_(3)
    weight = model[0].weight
    checkpoint.load_into(model, other.state_dict())
    assert model[0].weight is weight
    assert same(dict(model.state_dict()), dict(other.state_dict()))


def test_load_into_names_the_first_five_differences_and_changes_nothing():
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = dict(small_model().state_dict())
    del wrong["0.bias"]
    wrong["0.weight"] = torch.ones(3, 5)
    wrong["1.weight"] = wrong["1.weight"].half()
    wrong |= {name: torch.ones(1) for name in ("x1", "x2", "x3")}
    with pytest.raises(FileRefusedError) as caught:
        checkpoint.load_into(model, wrong)
    text = str(caught.value)
    for part in (
        "'0.weight' is 3×5, expected 3×2",
        "'0.bias' is missing",
        "float16",
        "'x1'",
        "'x2'",
        "1 more",
    ):
        assert part in text
    assert "x3" not in text
    assert "\n" not in text
    assert same(dict(model.state_dict()), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_load_into_refuses_nan_and_infinity_by_name(bad):
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sick = {name: tensor.clone() + 1 for name, tensor in model.state_dict().items()}
    sick["1.running_var"][1] = bad
    with pytest.raises(FileRefusedError, match=r"1\.running_var"):
        checkpoint.load_into(model, sick)
    assert same(dict(model.state_dict()), before)


def test_load_into_without_strict_takes_what_fits():
    model = small_model()
    checkpoint.load_into(model, {"0.bias": torch.ones(3).half(), "x": torch.ones(1)}, strict=False)
    assert model[0].bias.tolist() == [1, 1, 1]
    with pytest.raises(FileRefusedError, match="expected 3"):
        checkpoint.load_into(model, {"0.bias": torch.ones(4)}, strict=False)
    with pytest.raises(FileRefusedError, match="int64"):
        checkpoint.load_into(model, {"0.bias": torch.ones(3).long()}, strict=False)


def test_load_into_refuses_a_model_without_memory():
    with torch.device("meta"):
        model = small_model()
    with pytest.raises(FileRefusedError, match="meta"):
        checkpoint.load_into(model, small_model().state_dict())


def test_is_finite_knows_every_type():
    assert checkpoint.is_finite(torch.tensor([1, 2]))
    assert checkpoint.is_finite(torch.ones(2).to(torch.float8_e4m3fn))
    assert not checkpoint.is_finite(torch.tensor([math.nan]).to(torch.float8_e5m2))
    assert not checkpoint.is_finite(torch.tensor([complex(0, math.inf)]))
