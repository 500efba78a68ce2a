"""The safetensors format, read without trust: a header of names, types and places, then plain bytes.

Layout (huggingface/safetensors, README, "Format"): 8 bytes little-endian header length, a JSON object
``{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}``, the data.
A header is checked whole before one tensor is read: its length, its JSON, every type, shape and range,
and that the ranges tile the file exactly.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

#: The largest header anyone needs; a larger one is an attack or a damaged file.
MAX_HEADER = 100_000_000

#: Format name -> name of the torch type. Types that torch cannot compute with are only in `BITS`.
TORCH_NAMES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}

#: Bits per element of every type in the format.
BITS: dict[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def torch_type(kind: str) -> torch.dtype:
    """Return the torch type of a format's type; uint8 for those that torch does not compute with."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES.get(kind, "uint8"))
    return found


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor's place: ``begin`` and ``end`` are absolute byte offsets in ``file``."""

    name: str
    kind: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """How many elements the tensor has."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The torch type; uint8 where torch has none (such tensors are copied, never computed with)."""
        return torch_type(self.kind)


def read_header(file: Path) -> tuple[list[Entry], dict[str, str]]:
    """Return a file's tensors in file order and its metadata, or raise `CheckpointError` saying why not."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > MAX_HEADER or 8 + length > size:
                raise CheckpointError(
                    f"{file} is no whole safetensors file: its header claims {length} bytes, it has {size}"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} has a header that is no valid JSON object: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} has a header that is no JSON object")
    metadata = header.pop("__metadata__", {}) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{file}: __metadata__ must map strings to strings")
    start = 8 + length
    entries = sorted((_entry(file, n, v, start) for n, v in header.items()), key=lambda e: (e.begin, e.end))
    place = start
    for entry in entries:
        if entry.begin != place:
            raise CheckpointError(f"{file}: tensor '{entry.name}' overlaps another or leaves a hole")
        place = entry.end
    if place != size:
        what = "is truncated" if place > size else "has bytes that no tensor owns"
        raise CheckpointError(f"{file} {what}: the header describes {place} bytes, the file has {size}")
    return entries, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' appears twice")
    return found


def _entry(file: Path, name: str, value: Any, start: int) -> Entry:
    def wrong(why: str) -> CheckpointError:
        return CheckpointError(f"{file}: tensor '{name}' {why}")

    if not isinstance(value, dict):
        raise wrong("has no description")
    kind, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(kind, str) or kind not in BITS:
        raise wrong(f"has the unknown type {kind!r}; known: {', '.join(sorted(BITS))}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise wrong(f"has the shape {shape!r}; a list of whole numbers is needed")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise wrong(f"has the offsets {offsets!r}; two whole numbers are needed")
    begin, end = offsets
    bits = math.prod(shape) * BITS[kind]
    if begin < 0 or end < begin or bits != (end - begin) * 8:
        raise wrong(f"takes {bits // 8} bytes by type and shape, its offsets {begin}..{end} say otherwise")
    return Entry(name=name, kind=kind, shape=tuple(shape), file=file, begin=start + begin, end=start + end)


def encode_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return the length and the header for tensors (name, type, shape) that follow in this order.

    Padded with spaces so that the data starts at a multiple of 64 bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, kind, shape in tensors:
        end = place + math.prod(shape) * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    return len(raw).to_bytes(8, "little") + raw


def as_bytes(values: Tensor | NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous tensor or array as bytes, without a copy."""
    import numpy as np

    if isinstance(values, np.ndarray):
        return values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")
    import torch

    return as_bytes(values.reshape(-1).view(torch.uint8).numpy()) if values.numel() else memoryview(b"")


def read_bytes(descriptor: int, begin: int, count: int) -> NDArray[np.uint8]:
    """Return ``count`` bytes from ``begin`` as an array of its own (never a mapped page)."""
    import numpy as np

    data = np.empty(count, np.uint8)
    view = as_bytes(data)
    done = 0
    while done < count:
        got = os.preadv(descriptor, [view[done : done + (1 << 30)]], begin + done)
        if got <= 0:
            raise CheckpointError("a weight file became shorter while it was read")
        done += got
    return data
