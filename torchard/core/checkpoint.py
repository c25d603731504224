"""Save and load state whole: tensors as safetensors, all else as JSON in the same file, never pickle."""

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from torchard.core.errors import FileRefusedError
from torchard.core.files import one_line, parse_json, quote, replacing
from torchard.core.safetensors_header import read_header

# Nested dict, list, tuple, str, int, float, bool, None and Tensor. Python cannot spell it without recursion.
State: TypeAlias = Any

_STRUCTURE, _CHECKSUM = "torchard.state", "torchard.crc32"
_MAX_DEPTH = 50
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


def save(path: Path, state: State) -> None:
    """Write ``state`` to one safetensors file, atomically; :func:`load` gives it back exactly.

    Kept: tuple against list, plain keys, floats to the last bit (NaN and infinity too), integers of any size,
    strides of dense tensors (channels last), and that two places hold the very same tensor. Lost: device,
    ``requires_grad``, subclasses of the built-in types, sharing between tensors that merely overlap.

    Raises:
        TypeError: naming the place of anything else.
        ValueError: if the nesting is deeper than 50, as in state that contains itself.
        OSError: in one line; the previous file is intact.
    """
    tensors: list[Tensor] = []
    structure = _encode(state, "state", tensors, {}, 0)
    named = {str(number): tensor for number, tensor in enumerate(tensors)}
    _write(path, named, {_STRUCTURE: json.dumps(structure, allow_nan=False, separators=(",", ":"))})


def load(path: Path) -> State:
    """Return the state that :func:`save` wrote to ``path``; tensors are on the CPU and own their memory.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: in one line, if a single byte of it is not what was written, or it is no such file.
    """
    tensors, metadata, checked = _read(path)
    if not checked or _STRUCTURE not in metadata:
        raise FileRefusedError(f"{quote(path)} is refused: no state with a checksum, weights at most.")
    source = f"The structure in {quote(path)}"
    structure = parse_json(metadata[_STRUCTURE], source=source, max_depth=4 * _MAX_DEPTH)
    try:
        return _decode(structure, dict(tensors))
    except (KeyError, TypeError, ValueError, RecursionError, struct.error) as error:
        raise FileRefusedError(f"{source} is refused: {type(error).__name__} {one_line(error)}.") from None


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to a safetensors file that any reader of the format opens, atomically.

    Tensors that share memory are each written in full.

    Raises:
        TypeError: for a tensor the format cannot hold (sparse, quantised, on the meta device), by name.
        OSError: in one line; the previous file is intact.
    """
    _write(
        path, {name: _plain(tensor, quote(name)) for name, tensor in tensors.items()}, dict(metadata or {})
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of any safetensors file, by name, and its metadata; the tensors own their memory.

    Raises:
        FileNotFoundError: if there is no such file.
        FileRefusedError: in one line, for a damaged header or a foreign file; for what torchard wrote,
            also if any byte of the data has changed.
    """
    return _read(path)[:2]


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Copy ``tensors`` into the parameters and buffers of ``model``: all of them, or none at all.

    With ``strict=False`` names may be missing or left over and floats be of another width; shapes must agree.

    Raises:
        FileRefusedError: naming the first five differences, or the tensors that hold NaN or infinity.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    differences = [*_meta_differences(own), *_differences(own, tensors, strict)]
    if differences:
        rest = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        what = f"These tensors do not fit {type(model).__name__}, which is unchanged"
        raise FileRefusedError(f"{what}: {'; '.join(differences[:5])}{rest}.")
    fitting = {name: tensor for name, tensor in tensors.items() if name in own}
    sick = [quote(name) for name, tensor in fitting.items() if not is_finite(tensor)]
    if sick:
        raise FileRefusedError(
            f"NaN or infinity in {', '.join(sick[:5])}; {type(model).__name__} is unchanged."
        )
    model.load_state_dict(fitting, strict=False)


def is_finite(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is free of NaN and infinity; whole numbers always are."""
    floating = tensor.is_floating_point() or tensor.is_complex()
    # Eight-bit floats know no isfinite.
    return not floating or bool(
        torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all()
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], bool]:
    """Tensors, metadata, and whether a checksum vouches for them."""
    header = read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # A copy: what safe_open hands out may still be the file itself (safetensors #762).
            tensors = {name: _own(file.get_tensor(name)) for name in header.entries}
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise FileRefusedError(f"{quote(path)} is refused: {one_line(error)}.") from None
    metadata = dict(header.metadata)
    expected = metadata.pop(_CHECKSUM, None)
    if expected is not None and expected != _checksum(tensors, metadata):
        raise FileRefusedError(f"{quote(path)} is damaged: its content does not match its checksum.")
    return tensors, metadata, expected is not None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """By hand: the library's writer hides ``errno``, and leaves a file of its own behind when killed."""
    metadata = {**metadata, _CHECKSUM: _checksum(tensors, metadata)}
    # Widest elements first, so that every tensor lies aligned.
    ordered = dict(sorted(tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0])))
    head = _head(ordered, metadata)
    needed = len(head) + sum(tensor.nbytes for tensor in ordered.values())
    with replacing(path, needed=needed) as temporary, open(temporary, "xb") as file:
        file.write(head)
        for tensor in ordered.values():
            file.write(_bytes(tensor))


def _head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        span = [at, at + tensor.nbytes]
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        at = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 over all that a file says: against rot and torn writes, not against a forger."""
    value = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(json.dumps([name, _DTYPES[tensor.dtype], list(tensor.shape)]).encode(), value)
        value = zlib.crc32(_bytes(tensor), value)
    return f"{value:08x}"


def _plain(tensor: Tensor, place: str) -> Tensor:
    """The tensor as the format holds it: on the CPU, dense, contiguous."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.dtype not in _DTYPES:
        kind = f"{tensor.dtype} {tensor.layout} tensor on {tensor.device}"
        raise TypeError(f"{place} is a {kind}, which a checkpoint cannot hold.")
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _own(tensor: Tensor) -> Tensor:
    """A copy in fresh memory; truth values become 0 or 1, whatever byte the file had."""
    return tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor.clone()


def _encode(value: State, place: str, tensors: list[Tensor], seen: dict[Any, int], depth: int) -> Any:
    """JSON for ``value``: lists and scalars as they are, the rest as an object with one telling key."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{place[:200]} is nested deeper than {_MAX_DEPTH}: does the state contain itself?")
    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return _encode_float(float(value))
        case Tensor():
            return _encode_tensor(value, place, tensors, seen)
        case list() | tuple():
            steps = (f"{place}[{step}]" for step in range(len(value)))
            items = [_encode(item, step, tensors, seen, depth + 1) for item, step in zip(value, steps)]
            return items if isinstance(value, list) else {"tuple": items}
        case dict():
            steps = (f"{place}[{quote(key)}]" for key in value)
            items = [
                _encode(item, step, tensors, seen, depth + 1) for item, step in zip(value.values(), steps)
            ]
            return {"dict": [[_encode_key(key, place), item] for key, item in zip(value, items)]}
    raise TypeError(f"{place} is a {type(value).__module__}.{type(value).__qualname__}; {_ALLOWED}.")


_ALLOWED = "a checkpoint holds dict, list, tuple, str, int, float, bool, None and torch.Tensor"


def _encode_key(key: Any, place: str) -> Any:
    tensors: list[Tensor] = []
    encoded = _encode(key, f"a key of {place}", tensors, {}, _MAX_DEPTH - 4)
    if tensors:
        raise TypeError(f"{place} has a tensor for a key, which would not find its way back.")
    return encoded


def _encode_float(value: float) -> Any:
    # repr() round-trips every finite float; NaN and infinity, which JSON lacks, go as their bits.
    return value if value - value == 0 else {"float": struct.pack(">d", value).hex()}


def _encode_tensor(tensor: Tensor, place: str, tensors: list[Tensor], seen: dict[Any, int]) -> Any:
    plain = _plain(tensor, place)
    same = (tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
    number = seen.setdefault(same, len(tensors)) if tensor.numel() else len(tensors)
    if number == len(tensors):
        tensors.append(plain)
    usual = torch.empty(tensor.shape, device="meta").stride()
    if tensor.stride() == usual or not tensor.numel() or not _is_dense(tensor.shape, tensor.stride()):
        return {"tensor": str(number)}
    return {"tensor": str(number), "stride": list(tensor.stride())}


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements fill their memory without hole or overlap, in whatever order of dimensions."""
    filled = 1
    for step, size in sorted((step, size) for size, step in zip(shape, stride) if size != 1):
        if step != filled:
            return False
        filled *= size
    return True


def _decode(value: Any, tensors: dict[str, Tensor]) -> State:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "nothing")
    return _DECODERS[kind](value, tensors)


def _decode_dict(value: dict[str, Any], tensors: dict[str, Tensor]) -> State:
    pairs = [(_decode(key, {}), _decode(item, tensors)) for key, item in value["dict"]]
    answer = dict(pairs)
    if len(answer) != len(pairs):
        raise ValueError("a key stands twice")
    return answer


def _decode_tensor(value: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    name = value["tensor"]
    tensor = tensors[name]
    stride = tuple(value.get("stride", tensor.stride()))
    if stride != tensor.stride():
        if not all(type(step) is int and 0 <= step < 1 << 62 for step in stride):
            raise ValueError(f"stride {quote(stride)}")
        if len(stride) != tensor.dim() or not _is_dense(tensor.shape, stride):
            raise ValueError(f"stride {quote(stride)} does not fit shape {tuple(tensor.shape)}")
        tensors[name] = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    return tensors[name]


_DECODERS: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], State]] = {
    "tuple": lambda value, tensors: tuple(_decode(item, tensors) for item in value["tuple"]),
    "float": lambda value, tensors: struct.unpack(">d", bytes.fromhex(value["float"]))[0],
    "dict": _decode_dict,
    "tensor": _decode_tensor,
}


def _meta_differences(own: Mapping[str, Tensor]) -> list[str]:
    return [f"{quote(name)} of the model has no memory (meta device)" for name in own if own[name].is_meta]


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], strict: bool) -> list[str]:
    """What keeps ``given`` from fitting, in the model's order, in words."""
    answer = []
    for name in own:
        if name not in given:
            answer += [f"{quote(name)} is missing"] if strict else []
        elif own[name].shape != given[name].shape:
            answer.append(f"{quote(name)} is {_shape(given[name])}, expected {_shape(own[name])}")
        elif not _same_kind(own[name].dtype, given[name].dtype, strict):
            answer.append(f"{quote(name)} is {given[name].dtype}, expected {own[name].dtype}")
    return answer + [f"{quote(name)} is not in the model" for name in given if strict and name not in own]


def _same_kind(own: torch.dtype, given: torch.dtype, strict: bool) -> bool:
    return own == given or (not strict and own.is_floating_point and given.is_floating_point)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
