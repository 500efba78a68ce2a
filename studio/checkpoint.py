"""A model or adapter folder, read lazily: names, shapes and types at once, values only when asked for.

    checkpoint = Checkpoint(folder)
    checkpoint.names()                          # in file order
    checkpoint.read("model.norm.weight")        # a tensor of its own
    checkpoint.read("lm_head.weight", rows=(0, 1024))
    checkpoint.fingerprint()                    # sha256 over names, types, shapes and bytes

Weights come from safetensors files only, and only from inside the folder.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from studio.errors import CheckpointError, unknown
from studio.fingerprint import fingerprint
from studio.tensorfile import BITS, TORCH_NAMES, Entry, read_bytes, read_header

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

#: Weight files that stand alone, in the order in which they are looked for.
SINGLE = ("model.safetensors", "adapter_model.safetensors")
INDEX = "model.safetensors.index.json"
#: File endings that hold weights, in any format: never copied along with the configuration.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".pkl")


class Checkpoint:
    """The tensors of one folder by name; holds headers, never weights.

    Raises `CheckpointError` on creation if the folder has no safetensors weights, a shard is missing,
    damaged or outside the folder, or index and shards disagree.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read and check the headers of all weight files in ``folder``."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is not a folder with a model or an adapter")
        self._entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        # Files stay open once read: whatever replaces them, all pieces come from the same bytes.
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._owner: Checkpoint | None = None
        weakref.finalize(self, _close, self._open)
        self.files = self._weight_files()
        for file in self.files:
            entries, metadata = read_header(file)
            self.metadata.update(metadata)
            for entry in entries:
                if entry.name in self._entries:
                    other = self._entries[entry.name].file.name
                    raise CheckpointError(f"{file} and {other} both hold the tensor '{entry.name}'")
                self._entries[entry.name] = entry
        self._check_index()

    def names(self) -> tuple[str, ...]:
        """Return all tensor names, in the order of the files."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a tensor of this name."""
        return name in self._entries

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._entries)

    def entry(self, name: str) -> Entry:
        """Return where a tensor lies; an unknown name is a `CheckpointError` with the nearest match."""
        if name not in self._entries:
            sentence = unknown("tensor", name, self._entries)
            raise CheckpointError(f"{self.folder}: {sentence.split(' known: ')[0]}")
        return self._entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self.entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's torch type."""
        return self.entry(name).dtype

    def nbytes(self, name: str | None = None) -> int:
        """Return the bytes of one tensor, or of all of them."""
        return self.entry(name).nbytes if name else sum(e.nbytes for e in self._entries.values())

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Return a tensor, or its rows ``begin <= i < end`` along the first axis, as memory of its own."""
        entry = self.entry(name)
        if rows is None:
            return self.read_flat(name, 0, entry.numel).view(entry.shape)
        begin, end = rows
        if not entry.shape or not 0 <= begin <= end <= entry.shape[0]:
            raise CheckpointError(f"{self.folder}: '{name}' {list(entry.shape)} has no rows {begin}..{end}")
        step = entry.numel // entry.shape[0] if entry.shape[0] else 0
        return self.read_flat(name, begin * step, end * step).view(end - begin, *entry.shape[1:])

    def read_flat(self, name: str, begin: int, end: int) -> Tensor:
        """Return the elements ``begin <= i < end`` of the flattened tensor [end - begin]."""
        entry = self.entry(name)
        if entry.kind not in TORCH_NAMES:
            raise CheckpointError(
                f"{entry.file}: '{name}' has the type {entry.kind}, which can only be copied"
            )
        size = BITS[entry.kind] // 8
        return self.read_raw(name, begin * size, end * size).view(entry.dtype)

    def read_raw(self, name: str, begin: int, end: int) -> Tensor:
        """Return a tensor's bytes ``begin <= i < end`` (uint8), whatever its type."""
        import torch

        data = self.read_array(name, begin, end)
        return torch.from_numpy(data) if data.size else torch.empty(0, dtype=torch.uint8)

    def read_array(self, name: str, begin: int, end: int) -> NDArray[np.uint8]:
        """Return the same as a NumPy array, which takes no torch."""
        entry = self.entry(name)
        assert 0 <= begin <= end <= entry.nbytes, (name, begin, end)
        if entry.file not in self._open:
            with self._lock:
                if entry.file not in self._open:
                    self._open[entry.file] = os.open(entry.file, os.O_RDONLY)
        return read_bytes(self._open[entry.file], entry.begin + begin, end - begin)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The contents of ``config.json``, or an empty mapping when there is none."""
        return _read_json(self.folder / "config.json") if (self.folder / "config.json").is_file() else {}

    def companions(self) -> Iterator[PurePosixPath]:
        """Yield every file that is not a weight: configuration, processor, tokenizer, templates ..."""
        for file in sorted(self.folder.rglob("*")):
            relative = PurePosixPath(file.relative_to(self.folder).as_posix())
            hidden = any(part.startswith(".") for part in relative.parts)
            weight = file.suffix.lower() in WEIGHTS or file.name.endswith(".index.json")
            if file.is_file() and not hidden and not weight:
                yield relative

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """Return a view of the same files with the tensors ``{new name: name here}`` only, in that order."""
        view = copy.copy(self)
        view._owner = self  # whose end closes the files
        view._entries = {new: replace(self.entry(name), name=new) for new, name in names.items()}
        return view

    def fingerprint(self, threads: int = 0, *, fresh: bool = False) -> str:
        """Return the sha256 over all tensors (name, type, shape, bytes) in order of their names.

        It names the values, so it survives re-sharding and a changed metadata entry. ``fresh`` reads every
        byte again, where files that look unchanged are otherwise known from before.
        """
        return fingerprint(self.files, threads, fresh=fresh)

    def sample(self) -> str:
        """Return a sha256 over the names and the first bytes of every tensor: a quick key, no proof."""
        digest = hashlib.sha256()
        for name in sorted(self._entries):
            entry = self._entries[name]
            digest.update(f"{name}\0{entry.kind}\0{list(entry.shape)}\0".encode())
            digest.update(self.read_array(name, 0, min(4096, entry.nbytes)).data)
        return digest.hexdigest()

    def _weight_files(self) -> list[Path]:
        index = self.folder / INDEX
        if index.is_file():
            shards = list(dict.fromkeys(self._index(index).values()))
            return [self._shard(index, shard) for shard in shards]
        found = [self.folder / name for name in SINGLE if (self.folder / name).is_file()]
        found = found or sorted(self.folder.glob("*.safetensors"))
        if len(found) == 1:
            return found
        if found:
            names = ", ".join(file.name for file in found)
            raise CheckpointError(f"{self.folder} holds several weight files without {INDEX}: {names}")
        pickles = [
            f.name
            for f in sorted(self.folder.iterdir())
            if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
        ]
        if pickles:
            raise CheckpointError(
                f"{self.folder} holds only pickle weights ({pickles[0]}), which can run code when read; "
                "convert them to safetensors first"
            )
        raise CheckpointError(f"{self.folder} holds no safetensors weights")

    def _index(self, index: Path) -> dict[str, str]:
        mapping = _read_json(index).get("weight_map")
        if (
            not isinstance(mapping, dict)
            or not mapping
            or not all(isinstance(v, str) for v in mapping.values())
        ):
            raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
        return dict(mapping)

    def _shard(self, index: Path, name: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or path.suffix != ".safetensors":
            raise CheckpointError(f"{index} points at '{name}'; a shard is a .safetensors file in the folder")
        if not (self.folder / path).is_file():
            raise CheckpointError(f"{index} names the shard '{name}', which is missing")
        return self.folder / path

    def _check_index(self) -> None:
        index = self.folder / INDEX
        if not index.is_file():
            return
        for name, shard in self._index(index).items():
            if name not in self._entries or self._entries[name].file != self.folder / shard:
                raise CheckpointError(f"{index} promises the tensor '{name}' in '{shard}', where it is not")


def _close(descriptors: dict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return value
