"""core.safetensors_header: what a sound header says; damage is tested with core.checkpoint."""

import pytest
import torch
from safetensors.torch import save_file

from torchard.core.errors import FileRefusedError
from torchard.core.safetensors_header import ITEM_BYTES, Entry, read_header


def test_entries_come_in_the_order_of_their_bytes(tmp_path):
    tensors = {
        "b": torch.ones(2, 3),
        "a": torch.ones(4, dtype=torch.bool),
        "c": torch.ones((), dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "a", {"kind": "x"})
    header = read_header(tmp_path / "a")
    assert header.metadata == {"kind": "x"}
    assert list(header.entries.items()) == [
        ("c", Entry("I64", (), 0, 8)),
        ("b", Entry("F32", (2, 3), 8, 32)),
        ("a", Entry("BOOL", (4,), 32, 36)),
    ]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.uint16, torch.complex64, torch.float8_e4m3fn, torch.int8],
    ids=str,
)
def test_every_width_is_known(tmp_path, dtype):
    save_file({"a": torch.zeros(3).to(dtype)}, tmp_path / "a")
    entry = read_header(tmp_path / "a").entries["a"]
    assert entry.stop == 3 * ITEM_BYTES[entry.dtype] == 3 * dtype.itemsize


def test_a_folder_is_refused_and_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileRefusedError):
        read_header(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "no")
