"""Files of encoded samples, and how they are kept small without losing a bit.

A picture's features say little in many bytes: a model that sees films gets each still picture as two equal
frames, and all values come from 256 levels in each of three colours. So the second frame is left out, and
what remains is written as codes into a table of distinct values: the 12 GB of ten thousand pictures of
224 x 224 become 3 GB, and writing them took as long as computing them. Every tensor is compared with what
will be read again, bit by bit, before the short form is taken; what has many values, as sounds do, stays.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from studio.families._gauge import TOKENS
from studio.tensorfile import TORCH_NAMES, as_bytes, encode_header
from studio.types import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What a sample's text is made of; its other tensors are its media.
TEXT = (*TOKENS, "labels", "token_type_ids", "mm_token_type_ids")
#: torch's types as the shards' format names them.
KINDS = {getattr(torch, name): kind for kind, name in TORCH_NAMES.items()}
#: Smaller tensors are not worth a code; with more distinct values than these, a table would not stay small.
_LEAST, _MOST = 1 << 14, 2048
#: Bits of the place of a value in the table of codes, and how many ways to mix them are tried.
_BITS, _WAYS = 20, 100


class Codes:
    """A table of distinct float32 values, and the code of each: its place in the order of appearance."""

    def __init__(self) -> None:
        """Begin with no value."""
        self.values: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self.full = False
        self._mix = np.uint32(1)
        self._code: NDArray[np.int16] = np.zeros(1 << _BITS, np.int16)

    def of(self, bits: NDArray[np.uint32]) -> NDArray[np.int16] | None:
        """Return the codes of all ``bits``, or None if they have too many distinct values for a table."""
        if self.full:
            return None
        if len(self.values):
            codes = self._code.take((bits * self._mix) >> np.uint32(32 - _BITS))
            if np.array_equal(self.values.take(codes), bits):
                return codes
        fresh = np.setdiff1d(bits, self.values)
        if len(self.values) + len(fresh) > _MOST or not self._arrange(np.concatenate([self.values, fresh])):
            self.full = True
            return None
        codes = self._code.take((bits * self._mix) >> np.uint32(32 - _BITS))
        assert np.array_equal(self.values.take(codes), bits)
        return codes

    def _arrange(self, values: NDArray[np.uint32]) -> bool:
        """Find a factor that sends each value to a place of its own; say whether there is one."""
        draw = np.random.default_rng(0)
        for _ in range(_WAYS):
            mix = np.uint32(draw.integers(1 << 32) | 1)
            places = (values * mix) >> np.uint32(32 - _BITS)
            if len(np.unique(places)) == len(values):
                self.values, self._mix = values, mix
                self._code[places] = np.arange(len(values), dtype=np.int16)
                return True
        return False


class ShardWriter:
    """Takes the encoded rows of one shard, keeps them short, and writes them as one file."""

    def __init__(self) -> None:
        """Begin without a row."""
        self._codes: dict[str, Codes] = {}
        self._tensors: dict[str, Tensor] = {}
        self._about: dict[str, Any] = {
            "lengths": [],
            "learned": [],
            "keys": [],
            "rows": [],
            "short": {},
            "digests": [],
        }

    def add(self, row: int, item: Batch) -> None:
        """Take the tensors that row number ``row`` of the shard has become, or a part of it."""
        at = len(self._about["keys"])
        self._about["lengths"].append(tokens(item))
        self._about["learned"].append(int((item["labels"] != -100).sum()))
        self._about["keys"].append(list(item))
        self._about["rows"].append(row)
        digests: dict[str, str] = {}
        for key, value in item.items():
            name = f"{at}/{key}"
            short = value.dtype == torch.float32 and value.numel() >= _LEAST
            colours = _two_frames(value) if short else 0
            once = value.reshape(len(value), colours, 2, -1)[:, :, 0] if colours else value
            once = once.contiguous()
            if key not in TEXT:
                digests[key] = digest(once)
            self._tensors[name] = self._coded(name, key, value, once, colours) if short else once
        self._about["digests"].append(digests)

    def _coded(self, name: str, key: str, value: Tensor, once: Tensor, colours: int) -> Tensor:
        """Return codes for the values of ``once``, a frame of ``value``, or it as it is; note how."""
        codes = self._codes.setdefault(key, Codes()).of(once.numpy().reshape(-1).view(np.uint32))
        if codes is not None or colours:
            how = {"shape": list(value.shape), "frames": colours, "coded": codes is not None}
            self._about["short"][name] = how
        return once if codes is None else torch.from_numpy(codes)

    def write(self, path: Path, fitted: Mapping[str, int]) -> None:
        """Write the file; it appears whole or not at all, but need not survive a power cut."""
        for key, codes in self._codes.items():
            if len(codes.values):
                self._tensors[f"table/{key}"] = torch.from_numpy(codes.values.view(np.float32))
        write_tensors(path, self._tensors, {"about": json.dumps(self._about | {"fitted": dict(fitted)})})


class Shard:
    """One file of encoded rows, mapped; ``about`` says for each of them its lengths, keys and row."""

    def __init__(self, path: Path) -> None:
        """Map the file."""
        opened: Any = safe_open  # its stubs have no types
        self._file = opened(path, framework="pt")
        self.about: dict[str, Any] = json.loads(self._file.metadata()["about"])

    def keys(self, at: int) -> list[str]:
        """Return the names of the tensors of sample ``at``."""
        found: list[str] = self.about["keys"][at]
        return found

    def tensors(self, at: int, keys: Iterable[str]) -> Batch:
        """Return some of the tensors of sample ``at``, bit by bit as they were added."""
        return {key: self._tensor(f"{at}/{key}", key) for key in keys}

    def _tensor(self, name: str, key: str) -> Tensor:
        value: Tensor = self._file.get_tensor(name)
        how = self.about["short"].get(name)
        if how is None:
            return value
        if how["coded"]:
            value = torch.from_numpy(self._tables[key].take(value.numpy()))
        if how["frames"]:
            once = value.view(how["shape"][0], how["frames"], 1, -1)
            value = once.expand(-1, -1, 2, -1)
        return value.reshape(how["shape"])

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.float32]]:
        coded = {name.partition("/")[2] for name, how in self.about["short"].items() if how["coded"]}
        return {key: self._file.get_tensor(f"table/{key}").numpy() for key in coded}


def write_tensors(path: Path, named: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """Write a safetensors file, whole or not at all, without waiting for the disk; return its bytes."""
    # Wide types first: every tensor then begins at a multiple of its own width.
    tensors = sorted(named.items(), key=lambda pair: -pair[1].element_size())
    header = encode_header(((key, KINDS[value.dtype], tuple(value.shape)) for key, value in tensors), about)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(header)
            for _, value in tensors:
                file.write(as_bytes(value.contiguous()))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(header) + sum(value.nbytes for _, value in tensors)


def digest(value: Tensor) -> str:
    """Return a hash over a tensor's type, shape and bytes; processors have instructions for SHA-256."""
    found = hashlib.sha256(f"{value.dtype} {list(value.shape)} ".encode())
    found.update(as_bytes(value.contiguous()))
    return found.hexdigest()[:32]


def tokens(item: Batch) -> int:
    """Return the tokens of an encoded sample, media tokens included."""
    return max(int(item[key].numel()) for key in TOKENS if key in item)


def _two_frames(value: Tensor) -> int:
    """Return the colours of patches [P, colours x 2 x pixels] whose two frames have equal bits, else 0."""
    if value.dim() != 2:
        return 0
    bits = value.contiguous().view(torch.int32)
    for colours in (3, 1):
        if value.shape[1] % (2 * colours) == 0:
            frames = bits.view(len(bits), colours, 2, -1)
            if torch.equal(frames[:1, :, 0], frames[:1, :, 1]) and torch.equal(
                frames[:, :, 0], frames[:, :, 1]
            ):
                return colours
    return 0
